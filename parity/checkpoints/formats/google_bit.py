"""Names of BiT's ResNet in Google's hybrids, and the fields that they show.

Source: vision_transformer `vit_jax/models_resnet.py` and `models_vit.py`: GroupNorm with Flax's epsilon of 1e-6, and
kernels divided by their deviation plus 1e-5. In hybrids without stages the root is all there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..accounting import CheckpointError
from ..assumed import Given
from ..shapes import Shape
from .foreign import depth_of, shape_of
from .translate import Entry

ROOT = "conv_root/kernel"
_KERNEL = "h w i o -> o i h w"
_WIDTH = 64


def stem_of(shapes: Mapping[str, Shape], prefix: str, given: Given, *, path: Path) -> dict[str, Any]:
    """The fields of a hybrid's stem, and its `stride`; none of a flat ViT.

    Args:
        shapes: The shapes by their names.
        prefix: What stands before the names.
        given: What the user says.
        path: The path of the file, for errors.

    Raises:
        CheckpointError: Another width than BiT's, which nothing here can have.
    """
    if f"{prefix}{ROOT}" not in shapes:
        return {}
    width = shape_of(shapes, f"{prefix}{ROOT}", 4, path=path)[3]
    if width != _WIDTH:
        raise CheckpointError(f"{path}: {prefix}{ROOT}: got {width} channels, expected {_WIDTH}")
    depths = depths_of(shapes, prefix)
    return dict(
        stem="bit",
        stem_depths=depths,
        stem_norm_eps=given.take("stem_norm_eps", 1e-6),
        stem_conv_eps=given.take("stem_conv_eps", 1e-5),
        stem_conv_std=given.take("stem_conv_std", "deviation"),
        stride=4 * 2 ** max(len(depths) - 1, 0),
    )


def depths_of(names: Iterable[str], prefix: str) -> tuple[int, ...]:
    """Blocks of each stage; both are counted from 1."""
    start = re.escape(prefix)
    stages = depth_of(names, rf"{start}block(\d+)/")
    return tuple(depth_of(names, rf"{start}block{stage}/unit(\d+)/") for stage in range(1, stages + 1))


def table(prefix: str, depths: tuple[int, ...], norm: str) -> Iterator[Entry]:
    """The entries of root and stages.

    Args:
        prefix: What stands before the names.
        depths: Blocks of each stage.
        norm: The layout of GroupNorm's arrays.
    """
    root = "patch_embed.backbone.stem" if depths else "patch_embed.backbone"
    yield Entry(f"{root}.conv.weight", f"{prefix}{ROOT}", _KERNEL)
    yield from _norm(f"{root}.norm", f"{prefix}gn_root", norm)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours = f"patch_embed.backbone.stages.{stage}.blocks.{block}"
            theirs = f"{prefix}block{stage + 1}/unit{block + 1}"
            for number in (1, 2, 3):
                yield Entry(f"{ours}.conv{number}.weight", f"{theirs}/conv{number}/kernel", _KERNEL)
                yield from _norm(f"{ours}.norm{number}", f"{theirs}/gn{number}", norm)
            yield Entry(f"{ours}.downsample.conv.weight", f"{theirs}/conv_proj/kernel", _KERNEL)
            yield from _norm(f"{ours}.downsample.norm", f"{theirs}/gn_proj", norm)


def _norm(ours: str, theirs: str, layout: str) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", f"{theirs}/scale", layout)
    yield Entry(f"{ours}.bias", f"{theirs}/bias", layout)
