"""Convolutional stems: the layers that embed patches where that isn't one convolution.

`conv` is that of Xiao et al. 2021, arXiv:2106.14881, as torchvision builds it; `hmlp` that of Touvron et al. 2022,
arXiv:2203.09795, section 5, as in DeiT III's code. Both have BatchNorm, whose statistics are tensors of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .vit import VitConfig

Stem = Literal["patch", "conv", "hmlp"]
# Channels, kernel and stride of a convolution; kernels and strides are square.
StemConv = tuple[int, int, int]
# What DeiT III's stem has by construction.
_HMLP_PATCH = (16, 16)


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
    """The layers of a config's stem; none where it has the usual patch embedding."""
    if config.stem == "patch":
        return ()
    dim, inputs = config.embed_dim, config.in_chans
    if config.stem == "hmlp":
        return (
            StemLayer(in_chans=inputs, out_chans=dim // 4, kernel_size=4, stride=4, act="gelu"),
            StemLayer(in_chans=dim // 4, out_chans=dim // 4, kernel_size=2, stride=2, act="gelu"),
            StemLayer(in_chans=dim // 4, out_chans=dim, kernel_size=2, stride=2, bias=config.patch_bias),
        )
    layers = []
    for channels, kernel, stride in config.stem_convs:
        padding = (kernel - 1) // 2
        square = StemLayer(in_chans=inputs, out_chans=channels, kernel_size=kernel, stride=stride, padding=padding)
        layers.append(replace(square, bias=False, act="relu"))
        inputs = channels
    last = StemLayer(in_chans=inputs, out_chans=dim, kernel_size=1, stride=1, bias=config.patch_bias, norm=False)
    return (*layers, last)


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
    if config.stem == "patch":
        return
    stride = math.prod(conv[2] for conv in convs)
    patch = (stride, stride) if config.stem == "conv" else _HMLP_PATCH
    if config.patch_size != patch:
        raise ValueError(f"patch_size: got {config.patch_size}, expected {patch}, the stride of stem {config.stem!r}")
    if config.stem == "hmlp" and config.embed_dim % 4:
        raise ValueError(f"embed_dim: got {config.embed_dim}, expected a multiple of 4 with stem 'hmlp'")
    if any(kernel % 2 == 0 and stride == 1 for _, kernel, stride in convs):
        raise ValueError(f"stem_convs: got {convs}, expected odd kernels where the stride is 1")
    if config.stem == "conv" and config.drop_partial_patches:
        raise ValueError("drop_partial_patches: got True, expected false with stem 'conv', whose patches overlap")
