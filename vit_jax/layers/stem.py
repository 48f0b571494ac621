"""Layers of convolutional stems. Twin: `vit_torch/layers/stem.py`.

Sources: those of `parity/configs/stem.py`: Xiao et al. 2021, arXiv:2106.14881, and DeiT III's (Touvron et al. 2022,
arXiv:2203.09795, section 5). Paddings are zeros, equally many on each side, where Flax's default `SAME` would pad even
kernels on one side.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from .act import ACTIVATIONS
from .batch_norm import BatchNorm
from .linear import Conv
from .norm import Norm


class StemBlock(nnx.Module):
    """act(norm(conv(x))).

    Args:
        in_chans: Channels of the input.
        out_chans: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: How far it moves, down and across.
        padding: Zeros on each side.
        bias: Whether the convolution has a bias.
        norm: The norm of its output; None for none.
        act: The name of the activation, one of `ACTIVATIONS`; None for none.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        norm: Norm | None = BatchNorm,
        act: str | None = None,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.conv = Conv(
            in_chans,
            out_chans,
            kernel_size=(kernel_size, kernel_size),
            stride=(stride, stride),
            padding=padding,
            bias=bias,
            axes=(None, None, None, "embed"),
            rngs=rngs,
        )
        self.norm = None if norm is None else norm(out_chans, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Transforms a map, which shrinks by the stride."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.act is None else ACTIVATIONS[self.act](x)
