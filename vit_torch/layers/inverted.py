"""Inverted residuals of convolutions. Twin: `vit_jax/layers/inverted.py`.

Source: Sandler et al. 2018, arXiv:1801.04381, table 1, with BatchNorm behind each convolution: wide inside, where each
channel is convolved by itself, and no activation at the end. Names are timm's. The last BatchNorm starts at 0 where the
input is added, as in timm. Where other projects differ: MobileNets have ReLU6 for the activation, and leave out the
first convolution where a block is no wider inside.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution

from .. import random
from .conv_norm import ConvNormAct
from .drop import DropPath


class InvertedResidual(nn.Module):
    """conv3_1x1(conv2_kxk(conv1_1x1(x))), and x besides where the result has its shape.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the result.
        hidden_dim: Channels inside of the block.
        kernel_size: Height and width of the kernel that convolves each channel, an odd number.
        stride: By how much the map shrinks.
        act: The name of the activation, one of `ACTIVATIONS`.
        eps: The epsilon of BatchNorm.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        hidden_dim: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        act: str = "silu",
        eps: float = 1e-5,
    ):
        super().__init__()
        self.adds = stride == 1 and in_dim == dim
        given: dict[str, Any] = dict(eps=eps)
        depthwise: dict[str, Any] = dict(kernel_size=kernel_size, stride=stride, groups=hidden_dim)
        self.conv1_1x1 = ConvNormAct(in_dim, hidden_dim, act=act, **given)
        self.conv2_kxk = ConvNormAct(hidden_dim, hidden_dim, **depthwise, act=act, **given)
        self.conv3_1x1 = ConvNormAct(hidden_dim, dim, init=0.0 if self.adds else 1.0, **given)
        self.drop_path = DropPath()

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        *,
        keep_rate: float | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Tensor, "b d h2 w2"]:
        """Transforms a map.

        Args:
            x: A map.
            keep_rate: The share of samples whose branches are kept; None for all.
            key: The key of drop path; without one, what `Dropout.source` says.
            execution: How to run it, on which nothing depends here.
        """
        y = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        y = self.drop_path(y, keep_rate, key=key)
        return x + y if self.adds else y
