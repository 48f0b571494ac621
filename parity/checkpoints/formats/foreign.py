"""What foreign formats share: configs from names and shapes, and the check that a format can say what a model is."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, get, name_of, replace
from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.document import read_json
from ..shapes import Shape
from .translate import Entry, Ours, Unused, pair_up

# Heads of the published models of each width, where the tensors don't show them. So400m and CLIP's giants have others.
NUM_HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1536: 24}
# What a file of tensors alone can't say and what changes no output at the size that the file is for.
NOT_IN_TENSORS = (
    "preprocessing",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "pos_embed_resize",
    "patch_resize",
    "rel_pos_resize",
)


def translated(
    path: Path,
    config: Config,
    table: Sequence[Entry],
    tensors: Mapping[str, np.ndarray],
    *,
    unused: Sequence[Unused] = (),
    ignored: Mapping[str, str] | None = None,
    name: str | None = None,
    format: str,
) -> Checkpoint:
    """A checkpoint whose tensors are those of a foreign file by a table; none is read.

    Args:
        path: What was opened, for errors.
        config: Of the model.
        table: Where each tensor is kept.
        tensors: Theirs.
        unused: What else may be there.
        ignored: Why parts of the file are already left out of `tensors`, by their names; None for what the file's
            container says.
        name: The registered name of the model, if it was given.
        format: The format's name.

    Raises:
        CheckpointError: Missing, unexpected or misshapen tensors.
    """
    ours = Ours(pair_up(table, config, source=str(path)), tensors, unused=unused, source=str(path))
    source: dict[str, Any] = {"format": format, "path": str(path)}
    left_out = {**(getattr(tensors, "ignored", {}) if ignored is None else ignored), **ours.ignored}
    if left_out:
        source["ignored"] = left_out
    return Checkpoint(path, config, name or name_of(config), source, ours)


def read_document(path: Path, document: str, field: str) -> dict[str, Any]:
    """What we wrote beside foreign tensors, which don't say all of a config; nothing for a lone file.

    Args:
        path: What was opened.
        document: Name of the JSON file.
        field: The object that it must have.

    Raises:
        CheckpointError: A file that isn't what we write.
    """
    file = path / document
    if not path.is_dir() or not file.is_file():
        return {}
    data = read_json(file)
    if not isinstance(data.get(field), dict):
        raise CheckpointError(f"{file}: got no object {field}, expected what vit-parity writes beside the tensors")
    return data


def hold_against(
    config: Config, understand: Callable[[], Config], *, path: Path, format: str, free: Sequence[str] = ()
) -> None:
    """Checks that a reader of what is written would make the same model of it.

    Args:
        config: Of the model to write.
        understand: Makes what the reader would take it for.
        path: What is to be written, for the error.
        format: The format's name.
        free: Fields that may differ besides those of `NOT_IN_TENSORS`.

    Raises:
        CheckpointError: Fields that the format can't express; names each with both values.
    """
    try:
        got, expected = _compared(config, free), _compared(understand(), free)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: the {format} format can't express this config: {reason}") from None
    differs = [f"{name}: got {got[name]!r}, expected {expected[name]!r}" for name in got if got[name] != expected[name]]
    if differs:
        raise CheckpointError(f"{path}: the {format} format can't express this config\n  " + "\n  ".join(differs))


def _compared(config: Config, free: Sequence[str]) -> dict[str, Any]:
    """What tensors and a format's own code decide; a field that has several ways to say a thing as what it means."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name in (*NOT_IN_TENSORS, "image_size", "drop_partial_patches", "pos_embed_prefix", *free):
        del fields[name]
    return fields | dict(
        grid_size=config.grid_size,
        num_pos_embed_prefix=config.num_pos_embed_prefix,
        layer_scale_init=config.layer_scale_init is not None,
        attn_pool_heads=config.attn_pool_heads or config.num_heads,
        attn_pool_mlp_dim=config.attn_pool_mlp_dim or config.mlp_dim,
    )


def known(model: str | None) -> Config | None:
    """The config of a registered name that the user gave, if one was given."""
    return None if model is None else get(model)


def grid_fields(num_patches: int, patch_size: tuple[int, int], like: Config | None, *, path: Path) -> dict[str, Any]:
    """The fields of the image size, from the number of positions: a square, unless the named model has as many.

    Raises:
        CheckpointError: Not a square.
    """
    if like is not None and (like.patch_size, like.num_patches) == (patch_size, num_patches):
        return dict(image_size=like.image_size, drop_partial_patches=like.drop_partial_patches)
    side = math.isqrt(num_patches)
    if side * side != num_patches or side == 0:
        raise CheckpointError(
            f"{path}: got {num_patches} positions of patches, expected a square grid, or a model's name"
        )
    return dict(image_size=(side * patch_size[0], side * patch_size[1]))


def heads_of(embed_dim: int, like: Config | None, *, path: Path) -> int:
    """Attention heads of a width, where the tensors don't show them.

    Raises:
        CheckpointError: No published model has the width, and no model is named.
    """
    if like is not None and like.embed_dim == embed_dim:
        return like.num_heads
    if embed_dim not in NUM_HEADS:
        widths = ", ".join(map(str, NUM_HEADS))
        raise CheckpointError(
            f"{path}: the tensors don't show the number of heads, and embed_dim {embed_dim} is none of {widths}; "
            "name the model, such as --model NAME"
        )
    return NUM_HEADS[embed_dim]


def depth_of(names: Iterable[str], pattern: str) -> int:
    """Number of blocks: of the different numbers that the pattern's group finds at the start of a name."""
    found = (re.match(pattern, name) for name in names)
    return len({match.group(1) for match in found if match})


def shape_of(shapes: Mapping[str, Shape], name: str, axes: int, *, path: Path) -> Shape:
    """Shape of a tensor that a config is made of.

    Raises:
        CheckpointError: It isn't there, has another number of axes, or one of size 0.
    """
    if name not in shapes:
        raise CheckpointError(f"{path}: missing {name}, which says how large the model is")
    shape = tuple(shapes[name])
    if len(shape) != axes or 0 in shape:
        raise CheckpointError(f"{path}: misshapen {name}: got {list(shape)}, expected {axes} axes")
    return shape


def make(path: Path, **fields: Any) -> Config:
    """The config of some fields.

    Raises:
        CheckpointError: They make no model; names the file and the field.
    """
    # A stacked tensor of a few bytes could ask for millions of blocks.
    if fields.get("depth", 1) > _MAX_DEPTH:
        raise CheckpointError(f"{path}: got {fields['depth']} blocks, expected at most {_MAX_DEPTH}")
    try:
        return replace(_PLAIN, **fields)
    except (ValueError, TypeError) as error:  # TypeError: a document may have anything for a number
        raise CheckpointError(f"{path}: {error}") from None


_MAX_DEPTH = 1024
_PLAIN = get("vit_base_patch16_224")
