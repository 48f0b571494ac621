"""Normalisation over the channels, and LayerScale. Twin: `vit_torch/layers/norm.py`.

Which norm a layer has is given to it as a `Norm`: a class, or `partial(LayerNorm, eps=1e-5)`. Epsilons belong to the
source of the weights: LayerNorm's is 1e-5 in PyTorch's own default, CLIP and DINOv3, 1e-6 in Flax's default, timm's
ViTs, MAE and DINOv2, and 1e-12 in ViT and BEiT at Hugging Face. 1e-5 for 1e-6 moves the logits of a ViT-B by 3e-3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.checkpoints.leaf import Leaf

# Called as `norm(dim, rngs=rngs)`.
Norm = Callable[..., nnx.Module]


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450, eq. 4).

    y = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias, with the biased variance (the mean of dim squares), computed
    in float32 or better; the result is of the wider type of x and scale.

    The mean is subtracted before squaring: `nnx.LayerNorm` would by default take E[x^2] - E[x]^2, which loses 5e-3 of
    a float32 result at a mean of 100.

    Args:
        dim: The size of the last axis.
        eps: What is added to the variance.
        init: The start value of every scale.
        rngs: The source of the initial values, none of which is drawn.
    """

    leaves: ClassVar = {"scale": Leaf("weight", "d -> d"), "bias": Leaf("bias", "d -> d")}

    def __init__(self, dim: int, *, eps: float = 1e-6, init: float = 1.0, rngs: nnx.Rngs):
        self.eps = eps
        self.scale = nnx.Param(jnp.full(dim, init, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(dim, jnp.float32))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises the last axis."""
        return _layer_norm(x, self.scale[...], self.bias[...], self.eps)


class RmsNorm(nnx.Module):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4).

    y = x / sqrt(mean(x^2) + eps) * scale. The mean is taken and the scale applied in float32 or better, and the result
    is of the wider type of x and scale; Llama's code rounds to the input's precision before the scale.

    Args:
        dim: The size of the last axis.
        eps: What is added to the mean square.
        rngs: The source of the initial values, which are all 1.
    """

    leaves: ClassVar = {"scale": Leaf("weight", "d -> d")}

    def __init__(self, dim: int, *, eps: float = 1e-6, rngs: nnx.Rngs):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim, jnp.float32))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises the last axis."""
        return _rms_norm(x, self.scale[...], self.eps)


class GroupNorm(nnx.Module):
    """Normalisation of each image over groups of channels and all places (Wu and He 2018, arXiv:1803.08494, eq. 1).

    y = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias, with a mean and a biased variance for each image and group,
    computed in float32 or better; the result is of the wider type of x and scale. `nnx.GroupNorm` has groups of 32
    and 1e-6 by default, and takes E[x^2] - E[x]^2.

    Args:
        dim: The number of channels, the last axis.
        groups: How many groups there are; neighbours are in one.
        eps: What is added to the variance.
        rngs: The source of the initial values, none of which is drawn.

    Raises:
        ValueError: The groups don't divide the channels.
    """

    leaves: ClassVar = {"scale": Leaf("weight", "d -> d"), "bias": Leaf("bias", "d -> d")}

    def __init__(self, dim: int, *, groups: int = 1, eps: float = 1e-5, rngs: nnx.Rngs):
        if groups < 1 or dim % groups:
            raise ValueError(f"groups: got {groups}, expected a divisor of dim {dim}")
        self.groups = groups
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(dim, jnp.float32))

    def __call__(self, x: Float[Array, "b *rest d"]) -> Float[Array, "b *rest d"]:
        """Normalises each group of channels."""
        return _group_norm(x, self.scale[...], self.bias[...], self.groups, self.eps)


class LayerScale(nnx.Module):
    """A learned factor for each channel (CaiT, Touvron et al. 2021, arXiv:2103.17239, eq. 4): y = gamma * x.

    The result is of the wider type of x and gamma.

    Args:
        dim: The size of the last axis.
        init: The start value of every factor: CaiT takes 0.1 to 1e-6, less in deeper models.
    """

    def __init__(self, dim: int, *, init: float = 1e-5):
        self.gamma = nnx.Param(jnp.full(dim, init, jnp.float32))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Scales the last axis."""
        return x * self.gamma[...]


# For the backward pass x alone is kept, and what is quick to compute is computed again.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(_recomputed, static_argnums=3)
def _layer_norm(
    x: Float[Array, "... d"], scale: Float[Array, "d"], bias: Float[Array, "d"], eps: float
) -> Float[Array, "... d"]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(var + eps) * scale + bias).astype(jnp.promote_types(x.dtype, scale.dtype))


@functools.partial(_recomputed, static_argnums=(3, 4))
def _group_norm(
    x: Float[Array, "b *rest d"], scale: Float[Array, "d"], bias: Float[Array, "d"], groups: int, eps: float
) -> Float[Array, "b *rest d"]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    centred = wide - jnp.mean(wide, axis=axes, keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    wide = (centred * jax.lax.rsqrt(var + eps)).reshape(x.shape)
    return (wide * scale + bias).astype(jnp.promote_types(x.dtype, scale.dtype))


@functools.partial(_recomputed, static_argnums=2)
def _rms_norm(x: Float[Array, "... d"], scale: Float[Array, "d"], eps: float) -> Float[Array, "... d"]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * scale).astype(jnp.promote_types(x.dtype, scale.dtype))
