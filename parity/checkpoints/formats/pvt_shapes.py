"""The config that canonical names and shapes of a Pyramid Vision Transformer make.

All is in the tensors but the heads, which follow from the widths of the published models, the numerics, and the image
size, on which nothing depends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, replace
from ...configs.pvt import PvtConfig
from ..assumed import Given
from ..shapes import Shape
from .foreign import depth_of, expect_family, made, shape_of
from .settled import ANY_PREPROCESSING, images_of


def is_pvt(names: Mapping[str, Any]) -> bool:
    """Whether canonical names are those of a Pyramid Vision Transformer."""
    return "stages.0.blocks.0.mlp.dwconv.weight" in names


def infer(
    shapes: Mapping[str, Shape],
    given: Given,
    *,
    path: Path,
    known: Mapping[str, Any],
    usual: Callable[[PvtConfig], tuple[Preprocessing, str]],
) -> PvtConfig:
    """The config of a file.

    Args:
        shapes: The shapes by canonical name.
        given: What the user says; collects what is assumed.
        path: The path of the file, for errors.
        known: Fields that the format says, before the named model and after the user's own word.
        usual: The preprocessing to assume of a config, and why.

    Raises:
        CheckpointError: Shapes that make no model, or a contradiction.
    """
    expect_family(given, PvtConfig, path=path, what="a PVT v2")
    settle = functools.partial(given.settle_beside, known, path=path)
    fields: dict[str, Any] = _sizes(shapes, given, path) | {"preprocessing": ANY_PREPROCESSING}
    first = fields["embed_dims"][0]
    heads = tuple(max(dim // first, 1) for dim in fields["embed_dims"])
    if fields["linear"]:  # where it has no effect
        ratios = tuple(8 // 2 ** min(stage, 3) for stage in range(len(fields["depths"])))
        fields["sr_ratios"] = settle("sr_ratios", usual=ratios)
    fields |= dict(
        num_heads=settle("num_heads", usual=heads, why="of the first stage's width, as in every published one"),
        act=settle("act", usual="gelu", why="that of every published one"),
        norm_eps=settle("norm_eps", usual=1e-6, why="that of the authors and of timm"),
        embed_norm_eps=settle("embed_norm_eps", usual=1e-5, why="that of the authors and of timm"),
        image_size=settle("image_size", usual=(224, 224), why="nothing in the model depends on it, and 224 is usual"),
    )
    config = made(path, PvtConfig, fields)
    images, why = usual(config)
    images = images_of(given, config.in_chans, known=known.get("preprocessing"), usual=images, why=why)
    return made(path, functools.partial(replace, config), {"preprocessing": images})


def _sizes(shapes: Mapping[str, Shape], given: Given, path: Path) -> dict[str, Any]:
    """The fields that every file shows."""

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    stages = range(depth_of(shapes, r"stages\.(\d+)\."))
    kernels = ["patch_embed.proj.weight"] + [f"stages.{stage}.downsample.proj.weight" for stage in stages[1:]]
    reductions = [f"stages.{stage}.blocks.0.attn.sr.weight" for stage in stages]
    sides = tuple(size(name, 4)[2] if name in shapes else 1 for name in reductions)
    classes = size("head.weight", 2)[0] if "head.weight" in shapes else 0
    return dict(
        in_chans=size(kernels[0], 4)[1],
        embed_dims=tuple(size(name, 4)[0] for name in kernels),
        depths=tuple(depth_of(shapes, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages),
        mlp_dims=tuple(size(f"stages.{stage}.blocks.0.mlp.fc1.weight", 2)[0] for stage in stages),
        # A kernel of one place is that of the linear variant.
        linear=any(name in shapes and side == 1 for name, side in zip(reductions, sides, strict=True)),
        sr_ratios=sides,
        qkv_bias="stages.0.blocks.0.attn.q.bias" in shapes,
        num_classes=given.settle("num_classes", shown=classes, path=path),
    )
