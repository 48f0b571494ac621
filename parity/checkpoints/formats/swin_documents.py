"""Directories of Swin Transformers with foreign names: the tensors, and a document with what they don't show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...configs import Preprocessing
from ...configs.registry import build, jsonable
from ...configs.swin import SwinConfig
from ..accounting import CheckpointError
from ..assumed import Given
from ..checkpoint import Checkpoint
from .foreign import checkpoint_of
from .swin_names import UNUSED
from .swin_shapes import infer
from .translate import Entry, canonical_shapes, fill
from .weights import Weights

# What a document keeps, since the tensors don't show it.
_KEPT = ("image_size", "window_sizes", "trained_windows", "rel_pos_resize")


def read(
    weights: Weights,
    given: Given,
    document: Mapping[str, Any],
    *,
    table: Sequence[Entry],
    known: Mapping[str, Any],
    usual: Callable[[SwinConfig], tuple[Preprocessing, str]],
    path: Path,
    format: str,
) -> Checkpoint:
    """Opens a file of tensors, alone or with a document beside it; no tensor is read.

    Args:
        weights: The tensors.
        given: What the user says.
        document: What was written beside them: `config` and `preprocessing`; empty for a lone file.
        table: The names.
        known: Fields of the format's own code.
        usual: The preprocessing to assume of a config, and why.
        path: What was opened.
        format: The format's name.

    Raises:
        CheckpointError: Tensors that make no Swin Transformer, or that don't fit.
    """
    shapes = canonical_shapes(table, weights.shapes)
    said = {name: value for name, value in document.get("config", {}).items() if name in _KEPT}
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    if "preprocessing" in document:
        try:
            said["preprocessing"] = build(Preprocessing, document["preprocessing"], "preprocessing")
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
    config = infer(shapes, given, path=path, known={**known, **said}, usual=usual)
    filled = fill(table, config, source=str(path))
    return checkpoint_of(weights, given, config, filled, path=path, unused=UNUSED, format=format)


def kept(config: SwinConfig) -> dict[str, Any]:
    """The part of a document that `read` takes."""
    said = {name: getattr(config, name) for name in _KEPT}
    return {"config": jsonable(said), "preprocessing": jsonable(dataclasses.asdict(config.preprocessing))}


def check_expressed(config: SwinConfig, expected: Mapping[str, Any], *, path: Path, format: str) -> None:
    """Raises CheckpointError where a config has other values than a project's code; names each with both values."""
    differs = [
        f"{name}: got {getattr(config, name)!r}, expected {value!r}"
        for name, value in expected.items()
        if getattr(config, name) != value
    ]
    if differs:
        hint = (
            f"\n--numerics {format} takes its own"
            if all(line.partition(":")[0] in config.numerics for line in differs)
            else ""
        )
        lines = "\n  ".join(differs)
        raise CheckpointError(f"{path}: the {format} format can't express this config\n  {lines}{hint}")
