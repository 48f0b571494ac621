"""Affine maps. Twin: `vit_torch/layers/linear.py`."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.checkpoints.leaf import Leaf


class Linear(nnx.Module):
    """y = x W + b, to one output axis or to several, such as (3, heads, head_dim).

    Several axes are kept apart, so that a mesh can split heads and never cuts between query, key and value.

    Args:
        in_features: Size of the last input axis.
        out_features: Size of the output axis, or of each of them.
        bias: Whether to add one.
        axes: Logical names of the kernel's axes, for sharding; None for an axis that is never split.
        rngs: Source of the initial values.
    """

    leaves: ClassVar = {"kernel": Leaf("weight", "i o -> o i"), "bias": Leaf("bias", "o -> o")}

    def __init__(
        self,
        in_features: int,
        out_features: int | tuple[int, ...],
        *,
        bias: bool = True,
        axes: tuple[str | None, ...] = (),
        rngs: nnx.Rngs,
    ):
        self.out_features = (out_features,) if isinstance(out_features, int) else out_features
        self.kernel = nnx.Param(
            jax.random.normal(rngs.params(), (in_features, *self.out_features), jnp.float32) * in_features**-0.5
        )
        self.bias = nnx.Param(jnp.zeros(self.out_features, jnp.float32)) if bias else None
        self.logical_axes = (("kernel", axes), ("bias", axes[1:]))

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """Applies the map to the last axis."""
        x = jax.lax.dot_general(x, self.kernel[...], (((x.ndim - 1,), (0,)), ((), ())))
        return x if self.bias is None else x + self.bias[...]


class Conv(nnx.Conv):
    """A convolution, whose stride may be its kernel.

    Args:
        in_features: Channels of the input.
        out_features: Channels of the output.
        kernel_size: Height and width in pixels.
        stride: Pixels down and across.
        padding: Zeros on each side.
        bias: Whether to add one.
        axes: Logical names of the kernel's axes, for sharding.
        rngs: Source of the initial values.
    """

    leaves: ClassVar = {"kernel": Leaf("weight", "h w i o -> o i h w"), "bias": Leaf("bias", "o -> o")}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: int = 0,
        bias: bool = True,
        axes: tuple[str | None, ...] = (),
        rngs: nnx.Rngs,
    ):
        bound = 1 / math.sqrt(in_features * math.prod(kernel_size))
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides=stride,
            padding=padding,
            use_bias=bias,
            kernel_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
            rngs=rngs,
        )
        self.logical_axes = (("kernel", axes), ("bias", axes[-1:]))
