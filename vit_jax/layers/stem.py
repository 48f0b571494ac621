"""Layers of convolutional stems. Twin: `vit_torch/layers/stem.py`.

Sources: those of `parity/configs/stem.py`, which says what each layer is.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from parity.configs.stem import StemLayer

from .act import ACTIVATIONS
from .batch_norm import BatchNorm
from .linear import Conv


class StemBlock(nnx.Module):
    """A convolution, BatchNorm and an activation.

    Args:
        layer: What it is.
        eps: Of BatchNorm.
        rngs: Source of the initial values.
    """

    def __init__(self, layer: StemLayer, *, eps: float, rngs: nnx.Rngs):
        self.act = layer.act
        self.conv = Conv(
            layer.in_chans,
            layer.out_chans,
            kernel_size=(layer.kernel_size, layer.kernel_size),
            stride=(layer.stride, layer.stride),
            padding=layer.padding,
            bias=layer.bias,
            axes=(None, None, None, "embed"),
            rngs=rngs,
        )
        self.norm = BatchNorm(layer.out_chans, eps=eps, rngs=rngs) if layer.norm else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Transforms a map, which shrinks by the stride."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.act is None else ACTIVATIONS[self.act](x)
