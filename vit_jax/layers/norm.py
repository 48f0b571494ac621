"""Normalisation and LayerScale. Twin: `vit_torch/layers/norm.py`."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import VitConfig

from .leaf import Leaf


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450).

    The mean is subtracted before squaring: `nnx.LayerNorm` would by default take E[x^2] - E[x]^2, which loses 5e-3 of
    a float32 result at a mean of 100.

    Args:
        dim: Size of the last axis.
        eps: Added to the variance.
        rngs: Source of the initial values.
    """

    leaves: ClassVar = {"scale": Leaf("weight", "d -> d"), "bias": Leaf("bias", "d -> d")}

    def __init__(self, dim: int, *, eps: float, rngs: nnx.Rngs):
        super().__init__(dim, epsilon=eps, use_fast_variance=False, rngs=rngs)


class RmsNorm(nnx.Module):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467).

    The mean is taken in float32 or better.

    Args:
        dim: Size of the last axis.
        eps: Added to the mean square.
        rngs: Source of the initial values, which are all 1.
    """

    leaves: ClassVar = {"scale": Leaf("weight", "d -> d")}

    def __init__(self, dim: int, *, eps: float, rngs: nnx.Rngs):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim, jnp.float32))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises the last axis."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...]).astype(x.dtype)


def make_norm(config: VitConfig, dim: int, *, rngs: nnx.Rngs) -> LayerNorm | RmsNorm:
    """The kind of norm that a config asks for, over `dim` channels."""
    return {"layernorm": LayerNorm, "rmsnorm": RmsNorm}[config.norm](dim, eps=config.norm_eps, rngs=rngs)


class LayerScale(nnx.Module):
    """A learned factor for each channel (CaiT, Touvron et al. 2021, arXiv:2103.17239, eq. 4).

    Args:
        dim: Size of the last axis.
        init: Start value of every factor.
    """

    def __init__(self, dim: int, *, init: float):
        self.gamma = nnx.Param(jnp.full(dim, init, jnp.float32))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Scales the last axis."""
        return x * self.gamma[...]
