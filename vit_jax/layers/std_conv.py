"""Convolutions with standardised kernels. Twin: `vit_torch/layers/std_conv.py`.

Source: Qiao et al. 2019, arXiv:1903.10520, eq. 4: each output channel's kernel has mean 0 and variance 1,

    w = (w - mean(w)) / sqrt(var(w) + eps)        or        w = (w - mean(w)) / (sqrt(var(w)) + eps)

over its inputs and places, with the biased variance. Where other projects differ: the first form, with 1e-8, is timm's
and transformers' in hybrids, the second, with 1e-5, that of Google's own code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs.padding import same_padding

from .linear import Conv


class StdConv(Conv):
    """A convolution without a bias, with a standardised kernel and as many zeros as TensorFlow's `SAME`.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: How far it moves, down and across.
        eps: What keeps kernels that are all alike from being divided by 0.
        eps_outside: Whether that is added to the deviation, and not to the variance.
        rngs: Source of the initial values.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        eps: float = 1e-8,
        eps_outside: bool = False,
        rngs: nnx.Rngs,
    ):
        size, axes = (kernel_size, kernel_size), (None, None, None, "embed")
        super().__init__(in_dim, dim, kernel_size=size, stride=(stride, stride), bias=False, axes=axes, rngs=rngs)
        self.eps = eps
        self.eps_outside = eps_outside

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        """Applies the convolution, in the precision of the kernel, which is standardised in float32 or better."""
        kernel = standardized(self.kernel[...], self.eps, outside=self.eps_outside)
        x = x.astype(kernel.dtype)
        height, width = zip(x.shape[1:3], kernel.shape[:2], self.stride, strict=True)
        sides, layout = (same_padding(*height), same_padding(*width)), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, self.stride, sides, dimension_numbers=layout)


def standardized(weight: Float[Array, "h w i o"], eps: float, *, outside: bool) -> Float[Array, "h w i o"]:
    """The kernel with mean 0 and variance 1 for each output channel."""
    wide = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
    centred = wide - wide.mean(axis=(0, 1, 2), keepdims=True)
    var = jnp.square(centred).mean(axis=(0, 1, 2), keepdims=True)
    scale = 1 / (jnp.sqrt(var) + eps) if outside else jax.lax.rsqrt(var + eps)
    return (centred * scale).astype(weight.dtype)
