"""Affine maps. Twin: `vit_jax/layers/linear.py`."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Linear):
    """y = x W + b, to one output axis or to several, such as (3, heads, head_dim).

    Args:
        in_features: Size of the last input axis.
        out_features: Size of the output axis, or of each of them; the weight has them merged.
        bias: Whether to add one.
    """

    def __init__(self, in_features: int, out_features: int | tuple[int, ...], *, bias: bool = True):
        self.out_axes = (out_features,) if isinstance(out_features, int) else out_features
        super().__init__(in_features, math.prod(self.out_axes), bias=bias)

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... *o"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Applies the map to the last axis, in the precision of the weight."""
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        return F.linear(x.to(self.weight.dtype), self.weight, bias).unflatten(-1, self.out_axes)


class Conv(nn.Conv2d):
    """A convolution, whose stride may be its kernel.

    Args:
        in_features: Channels of the input.
        out_features: Channels of the output.
        kernel_size: Height and width in pixels.
        stride: Pixels down and across.
        padding: Zeros on each side.
        groups: Parts of the channels, each of which is convolved by itself; as many as channels for a depthwise one.
        bias: Whether to add one.
    """

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
    ):
        super().__init__(in_features, out_features, kernel_size, stride, padding=padding, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        bound = 1 / math.sqrt(self.in_channels // self.groups * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Applies the convolution, in the precision of the weight."""
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        return self._conv_forward(x.to(self.weight.dtype), self.weight, bias)


def add_bias(x: Float[Tensor, "... *o"], bias: Tensor | None) -> Float[Tensor, "... *o"]:
    """The sum in the wider of both types, rounded once: the gradient of a float32 bias is then summed in float32."""
    return x if bias is None else (x + bias).to(x.dtype)
