"""Layers of convolutional stems. Twin: `vit_jax/layers/stem.py`.

Sources: those of `parity/configs/stem.py`, which says what each layer is.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs.stem import StemLayer

from .act import ACTIVATIONS
from .batch_norm import BatchNorm
from .linear import Conv


class StemBlock(nn.Module):
    """A convolution, BatchNorm and an activation.

    Args:
        layer: What it is.
        eps: Of BatchNorm.
    """

    def __init__(self, layer: StemLayer, *, eps: float):
        super().__init__()
        self.act = layer.act
        self.conv = Conv(
            layer.in_chans,
            layer.out_chans,
            kernel_size=(layer.kernel_size, layer.kernel_size),
            stride=(layer.stride, layer.stride),
            padding=layer.padding,
            bias=layer.bias,
        )
        self.norm = BatchNorm(layer.out_chans, eps=eps) if layer.norm else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Transforms a map, which shrinks by the stride."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.act is None else ACTIVATIONS[self.act](x)
