"""BiT's ResNet, as hybrids have it in front of a Vision Transformer. Twin: `vit_torch/layers/bit.py`.

Source: Kolesnikov et al. 2019, arXiv:1912.11370, section 3.2: GroupNorm for BatchNorm and standardised kernels; blocks
as in the hybrids of Dosovitskiy et al. 2020, arXiv:2010.11929: norms behind convolutions, the stride in that of 3 x 3,
and zeros as TensorFlow's `SAME` counts them. Names are timm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from parity.configs.padding import same_padding

from .act import relu
from .norm import GroupNorm
from .std_conv import StdConv

Map = Float[Array, "b h w c"]
# Groups of every GroupNorm.
GROUPS = 32
EXPANSION = 4


class BitRoot(nnx.Module):
    """relu(norm(conv(images))), of which the greatest of 3 x 3 places is kept: a map four times as small.

    Args:
        in_chans: Channels of the images.
        dim: Channels of the map, a multiple of 32.
        eps: The epsilon of GroupNorm.
        conv_eps: The same of standardised kernels.
        eps_outside: The same as in `StdConv`.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        *,
        eps: float = 1e-5,
        conv_eps: float = 1e-8,
        eps_outside: bool = False,
        rngs: nnx.Rngs,
    ):
        self.conv = StdConv(in_chans, dim, kernel_size=7, stride=2, eps=conv_eps, eps_outside=eps_outside, rngs=rngs)
        self.norm = GroupNorm(dim, groups=GROUPS, eps=eps, rngs=rngs)

    def __call__(self, x: Map) -> Map:
        """Shrinks images."""
        return greatest(relu(self.norm(self.conv(x))))


class BitShortcut(nnx.Module):
    """norm(conv(x)), what a block adds its branch to where its result has another shape than x.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, a multiple of 32.
        stride: By how much the map shrinks.
        eps: The epsilon of GroupNorm.
        conv_eps: The same of standardised kernels.
        eps_outside: The same as in `StdConv`.
        rngs: The source of the initial values.
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
        rngs: nnx.Rngs,
    ):
        self.conv = StdConv(in_dim, dim, stride=stride, eps=conv_eps, eps_outside=eps_outside, rngs=rngs)
        self.norm = GroupNorm(dim, groups=GROUPS, eps=eps, rngs=rngs)

    def __call__(self, x: Map) -> Map:
        """Transforms a map."""
        return self.norm(self.conv(x))


class BitBlock(nnx.Module):
    """relu(shortcut(x) + norm3(conv3(relu(norm2(conv2(relu(norm1(conv1(x)))))))), four times as wide outside as inside.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, a multiple of 128.
        stride: By how much the map shrinks, in the second convolution.
        downsample: Whether the shortcut is a convolution of 1 x 1, and not the input itself.
        eps: The epsilon of GroupNorm.
        conv_eps: The same of standardised kernels.
        eps_outside: The same as in `StdConv`.
        rngs: The source of the initial values.
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
        rngs: nnx.Rngs,
    ):
        conv = partial(StdConv, eps=conv_eps, eps_outside=eps_outside, rngs=rngs)
        norm = partial(GroupNorm, groups=GROUPS, eps=eps, rngs=rngs)
        inner = dim // EXPANSION
        options: dict[str, Any] = dict(stride=stride, eps=eps, conv_eps=conv_eps, eps_outside=eps_outside, rngs=rngs)
        self.downsample = BitShortcut(in_dim, dim, **options) if downsample else None
        self.conv1 = conv(in_dim, inner)
        self.norm1 = norm(inner)
        self.conv2 = conv(inner, inner, kernel_size=3, stride=stride)
        self.norm2 = norm(inner)
        self.conv3 = conv(inner, dim)
        self.norm3 = norm(dim)

    def __call__(self, x: Map) -> Map:
        """Transforms a map."""
        y = relu(self.norm1(self.conv1(x)))
        y = relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return relu((x if self.downsample is None else self.downsample(x)) + y)


class BitStage(nnx.Module):
    """Blocks, the first of which shrinks the map.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output, a multiple of 128.
        depth: How many blocks there are.
        stride: By how much the map shrinks.
        options: The epsilons of `BitBlock`.
        rngs: The source of the initial values.
    """

    def __init__(self, in_dim: int, dim: int, depth: int, *, stride: int, rngs: nnx.Rngs, **options: Any):
        first = BitBlock(in_dim, dim, stride=stride, downsample=True, rngs=rngs, **options)
        self.blocks = nnx.List([first, *(BitBlock(dim, dim, rngs=rngs, **options) for _ in range(depth - 1))])

    def __call__(self, x: Map) -> Map:
        """Transforms a map."""
        for block in self.blocks:
            x = block(x)
        return x


class BitBackbone(nnx.Module):
    """The root and stages of blocks, each twice as wide as the one before.

    Args:
        in_chans: Channels of the images.
        dims: Channels of the root and of each stage.
        depths: Blocks of each stage.
        options: The epsilons of `BitBlock`.
        rngs: The source of the initial values.
    """

    def __init__(self, in_chans: int, dims: Sequence[int], depths: Sequence[int], *, rngs: nnx.Rngs, **options: Any):
        self.stem = BitRoot(in_chans, dims[0], rngs=rngs, **options)
        stages = [
            BitStage(dims[stage], dims[stage + 1], depth, stride=2 if stage else 1, rngs=rngs, **options)
            for stage, depth in enumerate(depths)
        ]
        self.stages = nnx.List(stages)

    def __call__(self, x: Map) -> Map:
        """The map of the last stage."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


def greatest(x: Map) -> Map:
    """The greatest of 3 x 3 places, of which every second is kept, with zeros as `SAME` counts them."""
    height, width = (same_padding(size, 3, 2) for size in x.shape[1:3])
    sides = ((0, 0), height, width, (0, 0))
    return jax.lax.reduce_window(x, -math.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)
