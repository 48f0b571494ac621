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
    """The convolution with zeros around it; depthwise ones have a form of their own on a CPU."""

    def general(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"]) -> Float[Array, "b h2 w2 o"]:
        sides, layout = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, stride, sides, dimension_numbers=layout, feature_group_count=groups
        )

    def moved(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"]) -> Float[Array, "b h2 w2 o"]:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        around = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)]).astype(wide)
        return _depthwise(around, kernel[:, :, 0].astype(wide)).astype(x.dtype)

    if groups == 1 or kernel.shape[2:] != (1, groups) or stride != (1, 1):
        return general(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=moved, default=general)


@jax.custom_vjp
def _depthwise(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"]) -> Float[Array, "b h2 w2 c"]:
    """A depthwise convolution without zeros around it, as a sum of products of moved maps.

    XLA's CPU backend takes thirty times as long for one of its convolutions, and seven times as long for the
    kernel's gradient if that is derived from this.
    """
    (down, across), (height, width) = kernel.shape[:2], x.shape[1:3]
    parts = [
        x[:, i : height - down + 1 + i, j : width - across + 1 + j] * kernel[i, j]
        for i in range(down)
        for j in range(across)
    ]
    return sum(parts[1:], parts[0])


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[Array, Array], y: Array) -> tuple[Array, Array]:
    """The kernel's gradient is summed place by place along each row, then over rows, then over images."""
    (x, kernel), (b, height, width, c) = saved, y.shape
    down, across = kernel.shape[:2]
    around = jnp.pad(y, [(0, 0), (down - 1, down - 1), (across - 1, across - 1), (0, 0)])

    def add_row(total: Array, i: Array) -> tuple[Array, None]:
        rows = jax.lax.dynamic_slice(x, (0, i, 0, 0), (b, down, x.shape[2], c))
        row = jax.lax.dynamic_slice(y, (0, i, 0, 0), (b, 1, width, c))

        def add_place(total: Array, j: Array) -> tuple[Array, None]:
            place = jax.lax.dynamic_slice(row, (0, 0, j, 0), (b, 1, 1, c))
            return total + jax.lax.dynamic_slice(rows, (0, 0, j, 0), (b, down, across, c)) * place, None

        own, _ = jax.lax.scan(add_place, jnp.zeros_like(total), jnp.arange(width))
        return total + own, None

    total, _ = jax.lax.scan(add_row, jnp.zeros((b, down, across, c), x.dtype), jnp.arange(height))
    return _depthwise(around, kernel[::-1, ::-1]), total.sum(axis=0)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
