"""BiT's ResNet, as hybrids have it in front of a Vision Transformer. Twin: `vit_jax/layers/bit.py`.

Source: Kolesnikov et al. 2019, arXiv:1912.11370, section 3.2: GroupNorm for BatchNorm and standardised kernels; blocks
as in the hybrids of Dosovitskiy et al. 2020, arXiv:2010.11929: norms behind convolutions, the stride in that of 3 x 3,
and zeros as TensorFlow's `SAME` counts them. Names are timm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs.padding import same_padding

from .act import relu
from .norm import GroupNorm
from .std_conv import StdConv

Map = Float[Tensor, "b c h w"]
# Groups of every GroupNorm.
GROUPS = 32
EXPANSION = 4


class BitRoot(nn.Module):
    """relu(norm(conv(images))), of which the greatest of 3 x 3 places is kept: a map four times as small.

    Args:
        in_chans: Channels of the images.
        dim: Channels of the map, a multiple of 32.
        eps: The epsilon of GroupNorm.
        conv_eps: The same of standardised kernels.
        eps_outside: The same as in `StdConv`.
    """

    def __init__(
        self, in_chans: int, dim: int, *, eps: float = 1e-5, conv_eps: float = 1e-8, eps_outside: bool = False
    ):
        super().__init__()
        self.conv = StdConv(in_chans, dim, kernel_size=7, stride=2, eps=conv_eps, eps_outside=eps_outside)
        self.norm = GroupNorm(dim, groups=GROUPS, eps=eps)

    def forward(self, x: Map) -> Map:
        """Shrinks images."""
        return greatest(relu(self.norm(self.conv(x))))


class BitShortcut(nn.Module):
    """norm(conv(x)), what a block adds its branch to where its result has another shape than x.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, a multiple of 32.
        stride: By how much the map shrinks.
        eps: The epsilon of GroupNorm.
        conv_eps: The same of standardised kernels.
        eps_outside: The same as in `StdConv`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        stride: int = 1,
        eps: float = 1e-5,
        conv_eps: float = 1e-8,
        eps_outside: bool = False,
    ):
        super().__init__()
        self.conv = StdConv(in_dim, dim, stride=stride, eps=conv_eps, eps_outside=eps_outside)
        self.norm = GroupNorm(dim, groups=GROUPS, eps=eps)

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        return self.norm(self.conv(x))


class BitBlock(nn.Module):
    """relu(shortcut(x) + norm3(conv3(relu(norm2(conv2(relu(norm1(conv1(x)))))))), four times as wide outside as inside.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, a multiple of 128.
        stride: By how much the map shrinks, in the second convolution.
        downsample: Whether the shortcut is a convolution of 1 x 1, and not the input itself.
        eps: The epsilon of GroupNorm.
        conv_eps: The same of standardised kernels.
        eps_outside: The same as in `StdConv`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        stride: int = 1,
        downsample: bool = False,
        eps: float = 1e-5,
        conv_eps: float = 1e-8,
        eps_outside: bool = False,
    ):
        super().__init__()
        conv = partial(StdConv, eps=conv_eps, eps_outside=eps_outside)
        norm = partial(GroupNorm, groups=GROUPS, eps=eps)
        inner = dim // EXPANSION
        options: dict[str, Any] = dict(stride=stride, eps=eps, conv_eps=conv_eps, eps_outside=eps_outside)
        self.downsample = BitShortcut(in_dim, dim, **options) if downsample else None
        self.conv1 = conv(in_dim, inner)
        self.norm1 = norm(inner)
        self.conv2 = conv(inner, inner, kernel_size=3, stride=stride)
        self.norm2 = norm(inner)
        self.conv3 = conv(inner, dim)
        self.norm3 = norm(dim)

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        y = relu(self.norm1(self.conv1(x)))
        y = relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return relu((x if self.downsample is None else self.downsample(x)) + y)


class BitStage(nn.Module):
    """Blocks, the first of which shrinks the map.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, a multiple of 128.
        depth: How many blocks there are.
        stride: By how much the map shrinks.
        options: The epsilons of `BitBlock`.
    """

    def __init__(self, in_dim: int, dim: int, depth: int, *, stride: int, **options: Any):
        super().__init__()
        first = BitBlock(in_dim, dim, stride=stride, downsample=True, **options)
        self.blocks = nn.ModuleList([first, *(BitBlock(dim, dim, **options) for _ in range(depth - 1))])

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        for block in self.blocks:
            x = block(x)
        return x


class BitBackbone(nn.Module):
    """The root and stages of blocks, each twice as wide as the one before.

    Args:
        in_chans: Channels of the images.
        dims: Channels of the root and of each stage.
        depths: Blocks of each stage.
        options: The epsilons of `BitBlock`.
    """

    def __init__(self, in_chans: int, dims: Sequence[int], depths: Sequence[int], **options: Any):
        super().__init__()
        self.stem = BitRoot(in_chans, dims[0], **options)
        stages = [
            BitStage(dims[stage], dims[stage + 1], depth, stride=2 if stage else 1, **options)
            for stage, depth in enumerate(depths)
        ]
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Map) -> Map:
        """The map of the last stage."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


def greatest(x: Map) -> Map:
    """The greatest of 3 x 3 places, of which every second is kept, with zeros as `SAME` counts them."""
    height, width = (same_padding(size, 3, 2) for size in x.shape[2:])
    return F.max_pool2d(F.pad(x, (*width, *height), value=-math.inf), 3, stride=2)
