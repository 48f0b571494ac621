"""The fields of what embeds patches, from its tensors: one convolution, or the stem of a project.

Channels and kernels are in the tensors, strides aren't. Those of DeiT III's stem are fixed. torchvision's stem takes
any: the user says them, or the model that was named, or they are 2, as Xiao et al. 2021 have them at kernels of 3 x 3
(arXiv:2106.14881), which then is assumed, and has to give the patch size if that is said.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs.stem import BIT_WIDTH, StemConv, as_stem_convs
from ..accounting import CheckpointError
from ..assumed import Given
from ..shapes import Shape
from .foreign import depth_of, shape_of

KERNEL = "patch_embed.proj.weight"
STEM = "patch_embed.stem"
BACKBONE = "patch_embed.backbone"
# Kernels of DeiT III's stem, all of whose convolutions have BatchNorm, and of MobileCLIP's, whose last one has none.
_FOURTHS = [4, 2, 2]
_PATCH = (16, 16)


def embedding_of(
    shapes: Mapping[str, Shape], given: Given, *, path: Path, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of the patch embedding, of whatever kind.

    Args:
        shapes: The shapes by canonical name.
        given: What the user says; collects what is assumed.
        path: The path of the file, for errors.
        known: What the file's documents and its project's code say: `stem_convs`, `stem_norm_eps`.

    Returns:
        `embed_dim`, `in_chans`, `patch_size`, `patch_bias`, and those of a stem where there is one.

    Raises:
        CheckpointError: A contradiction, or strides that have to be said.
    """
    known = known or {}
    depth = depth_of(shapes, r"patch_embed\.stem\.(\d+)\.")
    if not depth:
        dim, channels, *patch_size = shape_of(shapes, KERNEL, 4, path=path)
        bias = f"{KERNEL.removesuffix('weight')}bias" in shapes
        fields: dict[str, Any] = dict(embed_dim=dim, in_chans=channels, patch_size=tuple(patch_size), patch_bias=bias)
        if any(name.startswith(f"{BACKBONE}.") for name in shapes):
            fields |= _bit(shapes, patch_size, given, path=path, known=known)
        return fields
    kernels = [shape_of(shapes, f"{STEM}.{i}.conv.weight", 4, path=path) for i in range(depth)]
    fields = dict(
        embed_dim=kernels[-1][0],
        in_chans=kernels[0][1],
        patch_bias=f"{STEM}.{depth - 1}.conv.bias" in shapes,
    )
    why = "PyTorch's for BatchNorm, as in torchvision's stem and DeiT III's"
    if "stem_norm_eps" in known and "stem_norm_eps" not in given.fields:
        fields["stem_norm_eps"] = known["stem_norm_eps"]
    else:
        fields["stem_norm_eps"] = given.settle("stem_norm_eps", usual=1e-5, why=why)
    if f"{STEM}.{depth - 1}.norm.weight" in shapes:
        found = [kernel[2] for kernel in kernels]
        if found != _FOURTHS:
            raise CheckpointError(f"{path}: {STEM}: got kernels of {found}, expected {_FOURTHS}, those of DeiT III's")
        return fields | dict(stem="hmlp", patch_size=_PATCH)
    if [kernel[2] for kernel in kernels] == _FOURTHS:
        return fields | dict(stem="mci", patch_size=_PATCH)
    convs = _convs(kernels[:-1], given, path, known)
    side = math.prod(stride for _, _, stride in convs)
    return fields | dict(stem="conv", stem_convs=convs, patch_size=(side, side))


def _bit(
    shapes: Mapping[str, Shape], kernel: list[int], given: Given, *, path: Path, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of BiT's ResNet, and the patches in pixels, of which the kernel has places of its map."""
    stages = depth_of(shapes, rf"{re.escape(BACKBONE)}\.stages\.(\d+)\.")
    root = f"{BACKBONE}.stem" if stages else BACKBONE
    depths = tuple(
        depth_of(shapes, rf"{re.escape(BACKBONE)}\.stages\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)
    )
    width, channels, *_ = shape_of(shapes, f"{root}.conv.weight", 4, path=path)
    if width != BIT_WIDTH:
        raise CheckpointError(f"{path}: {root}.conv.weight: got {width} channels, expected {BIT_WIDTH}, those of BiT")
    stride = 4 * 2 ** max(stages - 1, 0)
    settle = functools.partial(given.settle_beside, known, path=path)
    return dict(
        stem="bit",
        stem_depths=depths,
        in_chans=channels,
        patch_size=tuple(side * stride for side in kernel),
        stem_norm_eps=settle("stem_norm_eps", usual=1e-5, why="timm's; Google's code has 1e-6"),
        stem_conv_eps=settle("stem_conv_eps", usual=1e-8, why="timm's; Google's code has 1e-5"),
        stem_conv_std=settle("stem_conv_std", usual="variance", why="timm's; Google's code adds it to the deviation"),
    )


def _convs(kernels: list[Shape], given: Given, path: Path, known: Mapping[str, Any]) -> tuple[StemConv, ...]:
    """Channels, kernel and stride of each convolution of torchvision's stem but the last."""
    shown = [(kernel[0], kernel[2]) for kernel in kernels]
    if (said := given.take("stem_convs", known.get("stem_convs"))) is not None:
        try:
            convs = as_stem_convs(said)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if [conv[:2] for conv in convs] != shown:
            got, expected = [list(conv[:2]) for conv in convs], [list(sizes) for sizes in shown]
            raise CheckpointError(f"{path}: stem_convs: got channels and kernels {got}, but the file has {expected}")
        return convs
    like = given.like
    if like is not None and like.stem_convs and [conv[:2] for conv in like.stem_convs] == shown:
        return like.stem_convs
    patch = given.take("patch_size")
    halved = 2 ** len(shown)
    if any(kernel != 3 for _, kernel in shown) or patch not in (None, (halved, halved)):
        written = ",".join(f"[{channels},{kernel},STRIDE]" for channels, kernel in shown)
        raise CheckpointError(
            f"{path}: the tensors don't show the strides of the stem's convolutions; say each with "
            f"--set stem_convs=[{written}] (stem_convs= in Python)"
        )
    convs = tuple((channels, kernel, 2) for channels, kernel in shown)
    return given.assume("stem_convs", convs, "strides of 2 at kernels of 3 x 3, as Xiao et al. have them")
