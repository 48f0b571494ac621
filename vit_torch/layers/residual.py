"""Residual blocks of convolutions. Twin: `vit_jax/layers/residual.py`.

Source: He et al. 2015, arXiv:1512.03385, figure 5, with BatchNorm behind each convolution. The last one of a branch
starts at 0, as in Goyal et al. 2017, arXiv:1706.02677. Where other projects differ: the first paper has a bottleneck's
stride in its first convolution, torchvision and timm in the second ("v1.5").
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .act import relu
from .batch_norm import BatchNorm
from .linear import Conv

Map = Float[Tensor, "b c h w"]


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))).

    Args:
        in_dim: Channels of the input.
        inner_dim: Channels inside of the block, and of the result.
        stride: By how much the map shrinks.
        downsample: Whether the shortcut is a convolution of 1 x 1, and not the input itself.
        eps: The epsilon of BatchNorm.
    """

    def __init__(self, in_dim: int, inner_dim: int, *, stride: int = 1, downsample: bool = False, eps: float = 1e-5):
        super().__init__()
        self.conv1 = make_conv(in_dim, inner_dim, 3, stride)
        self.bn1 = BatchNorm(inner_dim, eps=eps)
        self.conv2 = make_conv(inner_dim, inner_dim, 3)
        self.bn2 = BatchNorm(inner_dim, eps=eps, init=0.0)
        self.downsample = make_shortcut(in_dim, inner_dim, stride, eps) if downsample else None

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(shortcut(self.downsample, x) + y)


class Bottleneck(nn.Module):
    """relu(shortcut(x) + bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))), four times as wide outside as inside.

    Args:
        in_dim: Channels of the input.
        inner_dim: Channels inside of the block.
        stride: By how much the map shrinks, in the second convolution.
        downsample: Whether the shortcut is a convolution of 1 x 1, and not the input itself.
        eps: The epsilon of BatchNorm.
    """

    def __init__(self, in_dim: int, inner_dim: int, *, stride: int = 1, downsample: bool = False, eps: float = 1e-5):
        super().__init__()
        self.conv1 = make_conv(in_dim, inner_dim, 1)
        self.bn1 = BatchNorm(inner_dim, eps=eps)
        self.conv2 = make_conv(inner_dim, inner_dim, 3, stride)
        self.bn2 = BatchNorm(inner_dim, eps=eps)
        self.conv3 = make_conv(inner_dim, 4 * inner_dim, 1)
        self.bn3 = BatchNorm(4 * inner_dim, eps=eps, init=0.0)
        self.downsample = make_shortcut(in_dim, 4 * inner_dim, stride, eps) if downsample else None

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return relu(shortcut(self.downsample, x) + y)


def make_conv(in_dim: int, dim: int, side: int, stride: int = 1) -> Conv:
    """A convolution without a bias, with as many zeros around the map as keep its size at a stride of 1."""
    size: dict[str, Any] = dict(kernel_size=(side, side), stride=(stride, stride), padding=side // 2)
    return Conv(in_dim, dim, **size, bias=False)


def make_shortcut(in_dim: int, dim: int, stride: int, eps: float) -> nn.ModuleDict:
    """A convolution of 1 x 1 and BatchNorm, by the names that timm and torchvision have for them."""
    return nn.ModuleDict({"0": make_conv(in_dim, dim, 1, stride), "1": BatchNorm(dim, eps=eps)})


def shortcut(layers: nn.ModuleDict | None, x: Map) -> Map:
    """What a block adds its branch to."""
    return x if layers is None else layers["1"](layers["0"](x))
