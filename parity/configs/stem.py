"""Convolutional stems: the layers that embed patches where that isn't one convolution.

`conv` is that of Xiao et al. 2021, arXiv:2106.14881, as torchvision builds it; `hmlp` that of Touvron et al. 2022,
arXiv:2203.09795, section 5, as in DeiT III's code; `mci` that of Vasu et al. 2024, arXiv:2311.17049, as timm builds
MobileCLIP-B's. These have BatchNorm, whose statistics are tensors of the model. `bit` is the ResNet of Kolesnikov et
al. 2019, arXiv:1912.11370, as hybrids have it (`vit_jax/layers/bit.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .vit import VitConfig

Stem = Literal["patch", "conv", "hmlp", "mci", "bit"]
# Channels, kernel and stride of a convolution; kernels and strides are square.
StemConv = tuple[int, int, int]
# Where the epsilon of a standardised kernel is added.
StdEps = Literal["variance", "deviation"]
# What the stems of DeiT III and MobileCLIP have by construction.
_PATCH = (16, 16)
# Channels of BiT's first convolution, and how many times as wide its first stage is.
BIT_WIDTH, BIT_EXPANSION = 64, 4


@dataclass(frozen=True, kw_only=True)
class StemLayer:
    """A convolution and what follows it.

    Attributes:
        in_chans: Channels of the input.
        out_chans: Channels of the output.
        kernel_size: Height and width.
        stride: Pixels down and across.
        padding: Zeros on each side.
        bias: Whether the convolution has a bias.
        norm: Whether BatchNorm follows.
        act: Activation after it; None for none.
    """

    in_chans: int
    out_chans: int
    kernel_size: int
    stride: int
    padding: int = 0
    bias: bool = True
    norm: bool = True
    act: str | None = None


def stem_layers(config: VitConfig) -> tuple[StemLayer, ...]:
    """The layers of a config's stem; none where it has the usual patch embedding, or a ResNet before that."""
    if config.stem in ("patch", "bit"):
        return ()
    dim, inputs = config.embed_dim, config.in_chans
    if config.stem == "hmlp":
        return (
            StemLayer(in_chans=inputs, out_chans=dim // 4, kernel_size=4, stride=4, act="gelu"),
            StemLayer(in_chans=dim // 4, out_chans=dim // 4, kernel_size=2, stride=2, act="gelu"),
            StemLayer(in_chans=dim // 4, out_chans=dim, kernel_size=2, stride=2, bias=config.patch_bias),
        )
    if config.stem == "mci":
        return (
            StemLayer(in_chans=inputs, out_chans=dim // 4, kernel_size=4, stride=4, bias=False, act="gelu"),
            StemLayer(in_chans=dim // 4, out_chans=dim // 4, kernel_size=2, stride=2, bias=False, act="gelu"),
            StemLayer(in_chans=dim // 4, out_chans=dim, kernel_size=2, stride=2, bias=config.patch_bias, norm=False),
        )
    layers = []
    for channels, kernel, stride in config.stem_convs:
        padding = (kernel - 1) // 2
        square = StemLayer(in_chans=inputs, out_chans=channels, kernel_size=kernel, stride=stride, padding=padding)
        layers.append(replace(square, bias=False, act="relu"))
        inputs = channels
    last = StemLayer(in_chans=inputs, out_chans=dim, kernel_size=1, stride=1, bias=config.patch_bias, norm=False)
    return (*layers, last)


def bit_stride(config: VitConfig) -> int:
    """By how much the map of BiT's ResNet is smaller than the image: 4, and twice that in each further stage."""
    return 4 * 2 ** max(len(config.stem_depths) - 1, 0)


def bit_dims(config: VitConfig) -> tuple[int, ...]:
    """Channels of BiT's root and of each of its stages."""
    return (BIT_WIDTH, *(BIT_WIDTH * BIT_EXPANSION * 2**stage for stage in range(len(config.stem_depths))))


def kernel_sides(config: VitConfig) -> tuple[int, int]:
    """Height and width of the kernel that makes tokens: of the pixels of a patch, or of the places of a map."""
    stride = bit_stride(config) if config.stem == "bit" else 1
    height, width = config.patch_size
    return height // stride, width // stride


def as_stem_convs(value: object) -> tuple[StemConv, ...]:
    """The field `stem_convs` of lists, as JSON has them, or tuples.

    Raises:
        ValueError: The value is anything else.
    """
    convs: list[StemConv] = []
    for conv in value if isinstance(value, list | tuple) else (value,):
        sizes = conv if isinstance(conv, list | tuple) else ()
        if len(sizes) != 3 or not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(f"stem_convs: got {value!r}, expected (channels, kernel, stride) each, positive integers")
        channels, kernel, stride = sizes
        convs.append((channels, kernel, stride))
    return tuple(convs)


def check_stem(config: VitConfig) -> None:
    """Raises ValueError, naming the field, where the fields of a stem don't go together."""
    convs = config.stem_convs
    if bool(convs) != (config.stem == "conv"):
        expected = "one or more (channels, kernel, stride)" if config.stem == "conv" else "none"
        raise ValueError(f"stem_convs: got {convs}, expected {expected} with stem {config.stem!r}")
    depths = config.stem_depths
    if depths and config.stem != "bit":
        raise ValueError(f"stem_depths: got {depths}, expected none with stem {config.stem!r}")
    if config.stem == "patch":
        return
    if config.stem == "bit":
        _check_bit(config)
        return
    stride = math.prod(conv[2] for conv in convs)
    patch = (stride, stride) if config.stem == "conv" else _PATCH
    if config.patch_size != patch:
        raise ValueError(f"patch_size: got {config.patch_size}, expected {patch}, the stride of stem {config.stem!r}")
    if config.stem != "conv" and config.embed_dim % 4:
        raise ValueError(f"embed_dim: got {config.embed_dim}, expected a multiple of 4 with stem {config.stem!r}")
    if any(kernel % 2 == 0 and stride == 1 for _, kernel, stride in convs):
        raise ValueError(f"stem_convs: got {convs}, expected odd kernels where the stride is 1")
    if config.stem == "conv" and config.drop_partial_patches:
        raise ValueError("drop_partial_patches: got True, expected false with stem 'conv', whose patches overlap")


def _check_bit(config: VitConfig) -> None:
    depths, stride = config.stem_depths, bit_stride(config)
    if len(depths) > 4 or any(depth < 1 for depth in depths) or sum(depths) > 256:
        raise ValueError(f"stem_depths: got {depths}, expected positive numbers of blocks of at most 4 stages")
    if any(side % stride for side in config.patch_size):
        expected = f"multiples of {stride}, by which the stem's map is smaller than the image"
        raise ValueError(f"patch_size: got {config.patch_size}, expected {expected}")
    if config.drop_partial_patches:
        raise ValueError("drop_partial_patches: got True, expected false with stem 'bit'")
    if config.stem_conv_eps <= 0:
        raise ValueError(f"stem_conv_eps: got {config.stem_conv_eps}, expected a value above 0")
