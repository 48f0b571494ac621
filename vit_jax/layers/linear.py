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
        groups: Parts of the channels, each of which is convolved by itself; as many as channels for a depthwise one.
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
        groups: int = 1,
        bias: bool = True,
        axes: tuple[str | None, ...] = (),
        rngs: nnx.Rngs,
    ):
        bound = 1 / math.sqrt(in_features // groups * math.prod(kernel_size))
        shape = (*kernel_size, in_features // groups, out_features)
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if bias else None
        self.logical_axes = (("kernel", axes), ("bias", axes[-1:]))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Applies the convolution, in the precision of the kernel."""
        kernel = self.kernel[...]
        x = _convolve(x.astype(kernel.dtype), kernel, self.stride, self.padding, self.groups)
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


def _convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"], stride: tuple[int, int], padding: int, groups: int
) -> Float[Array, "b h2 w2 o"]:
    """The convolution with zeros around it.

    XLA's CPU backend is slow at depthwise ones and their gradients: there they are sums of products of moved maps.
    """

    def general(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"]) -> Float[Array, "b h2 w2 o"]:
        sides, layout = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, stride, sides, dimension_numbers=layout, feature_group_count=groups
        )

    def moved(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"]) -> Float[Array, "b h2 w2 o"]:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        around = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)]).astype(wide)
        height, width = (side - size + 1 for side, size in zip(around.shape[1:3], kernel.shape[:2], strict=True))
        parts = [
            around[:, down : down + height, across : across + width] * kernel[down, across, 0].astype(wide)
            for down in range(kernel.shape[0])
            for across in range(kernel.shape[1])
        ]
        return sum(parts[1:], parts[0]).astype(x.dtype)

    if groups == 1 or kernel.shape[2] > 1 or kernel.shape[3] != groups or stride != (1, 1):
        return general(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=moved, default=general)
