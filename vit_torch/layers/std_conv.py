"""Convolutions with standardised kernels. Twin: `vit_jax/layers/std_conv.py`.

Source: Qiao et al. 2019, arXiv:1903.10520, eq. 4: each output channel's kernel has mean 0 and variance 1,

    w = (w - mean(w)) / sqrt(var(w) + eps)        or        w = (w - mean(w)) / (sqrt(var(w)) + eps)

over its inputs and places, with the biased variance. Where other projects differ: the first form, with 1e-8, is timm's
and transformers' in hybrids, the second, with 1e-5, that of Google's own code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

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
    ):
        size = (kernel_size, kernel_size)
        super().__init__(in_dim, dim, kernel_size=size, stride=(stride, stride), bias=False)
        self.eps = eps
        self.eps_outside = eps_outside

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Applies the convolution, in the precision of the weight; the kernel is standardised in float32 or better."""
        kernel = standardized(self.weight, self.eps, outside=self.eps_outside)
        x = x.to(self.weight.dtype)
        height, width = zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        sides = (*same_padding(*width), *same_padding(*height))
        return F.conv2d(F.pad(x, sides), kernel, stride=self.stride)


def standardized(weight: Float[Tensor, "o i h w"], eps: float, *, outside: bool) -> Float[Tensor, "o i h w"]:
    """The kernel with mean 0 and variance 1 for each output channel."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    centred = wide - wide.mean(dim=(1, 2, 3), keepdim=True)
    var = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    scale = 1 / (var.sqrt() + eps) if outside else (var + eps).rsqrt()
    return (centred * scale).to(weight.dtype)
