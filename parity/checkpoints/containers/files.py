"""Writing a checkpoint's directory whole or not at all."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..accounting import CheckpointError
from .progress import progress_bar
from .tensors import WEIGHTS, write_tensors


def write_directory(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    documents: Mapping[str, Any],
    *,
    replaces: Callable[[Path], bool],
    weights: str = WEIGHTS,
) -> None:
    """Writes tensors and JSON files to a new directory beside the target, then moves it there.

    Args:
        path: The directory to make.
        tensors: Go to `model.safetensors`, one after another, so they may be lazy.
        documents: JSON values by file name.
        replaces: Whether a directory that stands there may be replaced.
        weights: Another name for the file of tensors, which then is one file of any size.

    Raises:
        CheckpointError: Something that may not be replaced is in the way.
    """
    if path.exists() and not (path.is_dir() and (replaces(path) or not any(path.iterdir()))):
        raise CheckpointError(f"{path}: exists and is no such checkpoint; remove it or choose another directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        with progress_bar(f"Writing {path.name}") as progress:
            whole = {} if weights == WEIGHTS else {"shard_bytes": sys.maxsize}
            write_tensors(new, tensors, progress=progress, **whole)
        if weights != WEIGHTS:
            (new / WEIGHTS).rename(new / weights)
        for name, document in documents.items():
            (new / name).write_text(json.dumps(document, indent=2) + "\n")
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
