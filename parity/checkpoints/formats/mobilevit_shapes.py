"""The config that canonical names and shapes of a MobileViT make.

All is in the tensors but the heads, the sides of a patch, the numerics, and the image size, on which nothing depends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, replace
from ...configs.mobilevit import MobileVitConfig, rounded
from ..assumed import Given
from ..shapes import Shape
from .foreign import depth_of, expect_family, made, shape_of
from .settled import ANY_PREPROCESSING, images_of


def is_mobilevit(names: Mapping[str, Any]) -> bool:
    """Whether canonical names are those of a MobileViT."""
    return "stem.conv.weight" in names and any(name.endswith(".transformer.0.norm1.weight") for name in names)


def infer(
    shapes: Mapping[str, Shape],
    given: Given,
    *,
    path: Path,
    known: Mapping[str, Any],
    usual: Callable[[MobileVitConfig], tuple[Preprocessing, str]],
) -> MobileVitConfig:
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
    expect_family(given, MobileVitConfig, path=path, what="a MobileViT")
    settle = functools.partial(given.settle_beside, known, path=path)
    fields: dict[str, Any] = _sizes(shapes, given, path) | {"preprocessing": ANY_PREPROCESSING}
    first = fields["version"] == 1
    published, timms = "that of every published one", "that of the authors and of timm"
    fields |= dict(
        num_heads=settle("num_heads", usual=4, why=published) if first else 1,
        patch_size=settle("patch_size", usual=(2, 2), why=published),
        patch_fit=settle("patch_fit", usual="bilinear" if first else "align_corners", why=timms),
        act=settle("act", usual="silu", why=published),
        norm_eps=settle("norm_eps", usual=1e-5, why=published),
        transformer_norm_eps=settle("transformer_norm_eps", usual=1e-5, why=published),
        image_size=settle("image_size", usual=(256, 256), why="nothing in the model depends on it, and 256 is usual"),
    )
    config = made(path, MobileVitConfig, fields)
    images, why = usual(config)
    images = images_of(given, config.in_chans, known=known.get("preprocessing"), usual=images, why=why)
    return made(path, functools.partial(replace, config), {"preprocessing": images})


def _sizes(shapes: Mapping[str, Shape], given: Given, path: Path) -> dict[str, Any]:
    """The fields that every file shows."""

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    stages = range(depth_of(shapes, r"stages\.(\d+)\."))
    depths = tuple(depth_of(shapes, rf"stages\.{stage}\.(\d+)\.conv1_1x1\.") for stage in stages)
    found = [f"stages.{stage}.{depth}" for stage, depth in zip(stages, depths, strict=True)]
    blocks = tuple(depth_of(shapes, rf"{name}\.transformer\.(\d+)\.") for name in found)
    inside = [name for name, depth in zip(found, blocks, strict=True) if depth]
    second = any(f"{name}.transformer.0.attn.qkv_proj.weight" in shapes for name in inside)
    axes = 4 if second else 2
    classes = size("head.fc.weight", 2)[0] if "head.fc.weight" in shapes else 0
    convolutions = [
        size(f"stages.{stage}.{block}.conv1_1x1.conv.weight", 4)[:2]
        for stage, depth in zip(stages, depths, strict=True)
        for block in range(depth)
    ]
    return dict(
        version=2 if second else 1,
        in_chans=size("stem.conv.weight", 4)[1],
        stem_dim=size("stem.conv.weight", 4)[0],
        dims=tuple(size(f"stages.{stage}.0.conv3_1x1.conv.weight", 4)[0] for stage in stages),
        depths=depths,
        expand_ratio=_ratio(convolutions),
        transformer_dims=tuple(size(f"{name}.conv_1x1.weight", 4)[0] if name in inside else 0 for name in found),
        transformer_depths=blocks,
        mlp_dims=tuple(
            size(f"{name}.transformer.0.mlp.fc1.weight", axes)[0] if name in inside else 0 for name in found
        ),
        # Of three projections, which are one here, the query's is there by its own name.
        qkv_bias=second
        or any(f"{name}.transformer.0.attn.{part}.bias" in shapes for name in inside for part in ("qkv", "query")),
        out_dim=size("final_conv.conv.weight", 4)[0] if "final_conv.conv.weight" in shapes else 0,
        num_classes=given.settle("num_classes", shown=classes, path=path),
    )


def _ratio(convolutions: list[Shape]) -> float:
    """How many times as wide inverted residuals are inside: what all of them are, for all that they are rounded."""
    ratios = [hidden / width for hidden, width in convolutions]
    fits = (
        ratio
        for ratio in (*map(round, ratios), *ratios)
        if all(rounded(width * ratio) == hidden for hidden, width in convolutions)
    )
    return float(next(fits, ratios[0] if ratios else 1.0))
