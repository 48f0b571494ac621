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
        """Applies the map to the last axis, in the precision of the kernel."""
        kernel = self.kernel[...]
        return add_bias(matmul(x.astype(kernel.dtype), kernel), self.bias)


class Conv(nnx.Module):
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
        shape = (*kernel_size, in_features, out_features)
        self.stride = stride
        self.padding = padding
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if bias else None
        self.logical_axes = (("kernel", axes), ("bias", axes[-1:]))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Applies the convolution, in the precision of the kernel."""
        kernel = self.kernel[...]
        padding, layout = [(self.padding, self.padding)] * 2, ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x.astype(kernel.dtype), kernel, self.stride, padding, dimension_numbers=layout)
        return add_bias(x, self.bias)


def add_bias(x: Float[Array, "... *o"], bias: nnx.Param | None) -> Float[Array, "... *o"]:
    """The sum in the wider of both types, rounded once: the gradient of a float32 bias is then summed in float32."""
    return x if bias is None else (x + bias[...]).astype(x.dtype)


def matmul(x: Float[Array, "... i"], kernel: Float[Array, "i *o"]) -> Float[Array, "... *o"]:
    """The product over the last axis of x and the first of the kernel.

    XLA's CPU backend is slow at the kernel's gradient where x has more axes than two: there they are flattened. Other
    platforms keep the axes, which a mesh may split and a TPU would have to lay out anew.
    """

    def product(x: Float[Array, "... i"], kernel: Float[Array, "i *o"]) -> Float[Array, "... *o"]:
        return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))

    def flat(x: Float[Array, "... i"], kernel: Float[Array, "i *o"]) -> Float[Array, "... *o"]:
        return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], *kernel.shape[1:])

    if x.ndim == 2:
        return product(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=flat, default=product)
