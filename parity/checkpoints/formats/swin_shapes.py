"""The config that canonical names and shapes of a Swin Transformer make: what a file of tensors alone has.

Widths, stages, heads and classes are in the tensors, and of the first version the windows, by their tables. What isn't:
the image size, the numerics, and of Swin V2 the windows, unless the file has the indices that follow from them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, replace
from ...configs.swin import SwinConfig
from ..accounting import CheckpointError
from ..assumed import Given
from ..shapes import Shape, parameter_shapes
from .foreign import depth_of, expect_family, made, shape_of
from .settled import ANY_PREPROCESSING, images_of

_PUBLISHED = "that of every published Swin"


def is_swin(names: Mapping[str, Any]) -> bool:
    """Whether canonical names are those of a Swin Transformer."""
    return "layers.0.blocks.0.attn.qkv.weight" in names


def infer(
    shapes: Mapping[str, Shape],
    given: Given,
    *,
    path: Path,
    known: Mapping[str, Any],
    usual: Callable[[SwinConfig], tuple[Preprocessing, str]],
) -> SwinConfig:
    """The config of a file.

    Args:
        shapes: The shapes by canonical name; of `relative_position_index`, too, where the file has it.
        given: What the user says; collects what is assumed.
        path: The path of the file, for errors.
        known: Fields that the format or a document says, before the named model and after the user's own word.
        usual: The preprocessing to assume of a config, and why.

    Raises:
        CheckpointError: Shapes that make no model, a contradiction, or something that has to be asked for.
    """
    expect_family(given, SwinConfig, path=path, what="a Swin Transformer")
    settle = functools.partial(given.settle_beside, known, path=path)
    fields = _sizes(shapes, given, path) | dict(
        act=settle("act", usual="gelu", why=_PUBLISHED),
        norm_eps=settle("norm_eps", usual=1e-5, why=_PUBLISHED),
        window_fit=settle("window_fit", usual="shrink", why="timm's, of maps that windows don't divide"),
        shift_mask=settle("shift_mask", usual=-100.0),
        rel_pos_resize=settle("rel_pos_resize", usual="geometric"),
    )
    if fields["version"] == 2:
        why = "the tensors don't show whether there were other windows before"
        fields["trained_windows"] = settle("trained_windows", usual=(), why=why)
    config = _with_windows(shapes, given, path, known, fields)
    images, why = usual(config)
    images = images_of(given, config.in_chans, known=known.get("preprocessing"), usual=images, why=why)
    return made(path, functools.partial(replace, config), {"preprocessing": images})


def _with_windows(
    shapes: Mapping[str, Shape], given: Given, path: Path, known: Mapping[str, Any], fields: Mapping[str, Any]
) -> SwinConfig:
    """The config of other fields, with windows and the image size, of which each shows the other."""
    settle = functools.partial(given.settle_beside, known, path=path)
    make = functools.partial(SwinConfig, preprocessing=ANY_PREPROCESSING)
    windows = settle("window_sizes") if given.says("window_sizes") or "window_sizes" in known else None
    if windows is not None and ("image_size" in given.fields or "image_size" in known or given.model is not None):
        config = made(path, make, {**fields, "window_sizes": windows, "image_size": settle("image_size")})
        if "window_sizes" in given.fields or _has_windows(config, shapes):
            return config
    stages = len(fields["depths"])
    shown = _shown(shapes, stages, path) if "window_sizes" not in given.fields else windows
    shown = shown or settle("window_sizes")
    sides = [side * shown[-1] * 2 ** (stages - 1) for side in fields["patch_size"]]
    size_of = settle("image_size", usual=tuple(sides), why="the last map is one window")
    return made(path, make, {**fields, "window_sizes": shown, "image_size": size_of})


def _sizes(shapes: Mapping[str, Shape], given: Given, path: Path) -> dict[str, Any]:
    """The fields that every file shows."""

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    dim, channels, *patch = size("patch_embed.proj.weight", 4)
    stages = range(depth_of(shapes, r"layers\.(\d+)\."))
    version = 2 if "layers.0.blocks.0.attn.logit_scale" in shapes else 1
    name, axes, axis = ("logit_scale", 3, 0) if version == 2 else ("relative_position_bias_table", 2, 1)
    classes = size("head.fc.weight", 2)[0] if "head.fc.weight" in shapes else 0
    return dict(
        version=version,
        in_chans=channels,
        patch_size=tuple(patch),
        embed_dim=dim,
        depths=tuple(depth_of(shapes, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in stages),
        num_heads=tuple(size(f"layers.{stage}.blocks.0.attn.{name}", axes)[axis] for stage in stages),
        mlp_dim=size("layers.0.blocks.0.mlp.fc1.weight", 2)[0],
        num_classes=given.settle("num_classes", shown=classes, path=path),
    )


def _shown(shapes: Mapping[str, Shape], stages: int, path: Path) -> tuple[int, ...] | None:
    """The windows of the stages, squares, from tables or from indices; None where neither is there."""
    sides = []
    for stage in range(stages):
        name = f"layers.{stage}.blocks.0.attn.relative_position_"
        if f"{name}bias_table" in shapes:
            rows = shapes[f"{name}bias_table"][0]
            side, is_square = (math.isqrt(rows) + 1) // 2, math.isqrt(rows) ** 2 == rows and rows % 2 == 1
        elif f"{name}index" in shapes:
            tokens = math.prod(shapes[f"{name}index"])  # of each pair of them, side by side or not
            side = math.isqrt(math.isqrt(tokens))
            is_square, rows = side**4 == tokens, tokens
        else:
            return None
        if not is_square:
            raise CheckpointError(
                f"{path}: {name}: got {rows} relative positions, expected those of a square window, or the name of "
                "a model that has the windows: --model NAME (in Python model=)"
            )
        sides.append(side)
    return tuple(sides)


def _has_windows(config: SwinConfig, shapes: Mapping[str, Shape]) -> bool:
    """Whether the tables of a file are those of a config."""
    tables = [(name, shape) for name, shape in parameter_shapes(config).items() if name.endswith("position_bias_table")]
    return all(shapes.get(name) == shape for name, shape in tables)
