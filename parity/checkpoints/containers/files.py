"""Writing a checkpoint's directory whole or not at all, without losing what somebody else put there.

What is replaced is a checkpoint that we wrote, known by its document, and of its directory only what we write: the
documents and the tensors. Other files there are kept (notes, logs, a README), but for those that a reader looks for
(`pytorch_model.bin`, a shard that no index names): beside a new checkpoint they could be taken for a part of it, so
these are refused by name, before anything is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ... import outputs
from ..accounting import CheckpointError, cut
from .document import find_json
from .progress import progress_bar
from .tensors import WEIGHTS, write_tensors

INDEX = f"{WEIGHTS}.index.json"
# In a document of a foreign format, which has no word for it: that the directory isn't its owner's original.
WRITTEN_BY = {"written_by": "vit-parity"}
# What readers of any format look for in a directory.
_LOOKED_FOR = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "torchvision.json",
    "meta.json",
    "microsoft.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "open_clip_config.json",
    "open_clip_*model.*",
    "flax_model*.msgpack*",
    "tf_model.h5",
)


class Destination(Protocol):
    """What a format writes, so that its place can be checked before a source is read."""

    def check(self, path: str | Path, source: str | Path | None = None) -> None:
        """Checks a place.

        Args:
            path: Where to write.
            source: What is read, if it is a path.

        Raises:
            CheckpointError: Something that may not be replaced is in the way, or the place can't be written to.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Directory:
    """A directory of documents and tensors.

    Attributes:
        documents: Names of the JSON files.
        is_ours: Whether a directory is a checkpoint of the format that we wrote.
        weights: Name of the file of tensors; `model.safetensors` may be several, with an index.
    """

    documents: tuple[str, ...]
    is_ours: Callable[[Path], bool]
    weights: str = WEIGHTS

    def check(self, path: str | Path, source: str | Path | None = None) -> None:
        """Checks a place, as `Destination.check`."""
        try:
            outputs.check_directory(path)
            if source is not None:
                outputs.check_apart(path, source)
            old = outputs.resolved(path)
            if not old.exists():
                return
            outputs.check_replaceable(path)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        if not any(old.iterdir()):
            return
        if not self.is_ours(old):
            what = "exists and is no such checkpoint that vit-parity wrote"
            raise CheckpointError(f"{path}: {what}; remove it or choose another directory")
        foreign = [name for name in _looked_for(old) if name not in self.replaced(old)]
        if foreign:
            what = f"holds files of another checkpoint: {cut(foreign)}"
            raise CheckpointError(f"{path}: {what}; remove them or choose another directory")

    def replaced(self, old: Path) -> set[str]:
        """Names of what we write in such a directory, of the shards those that its index has."""
        names = {*self.documents, self.weights}
        if self.weights == WEIGHTS and (old / INDEX).is_file():
            weight_map = find_json(old / INDEX).get("weight_map")
            shards = weight_map.values() if isinstance(weight_map, dict) else ()
            names |= {INDEX, *(shard for shard in shards if fnmatch(str(shard), "model-*-of-*.safetensors"))}
        return names


@dataclass(frozen=True, kw_only=True)
class File:
    """One file.

    Attributes:
        suffix: The suffix of its name.
        is_ours: Whether a file is one that we wrote.
    """

    suffix: str
    is_ours: Callable[[Path], bool]

    def check(self, path: str | Path, source: str | Path | None = None) -> None:
        """Checks a place, as `Destination.check`."""
        if Path(path).suffix != self.suffix:
            raise CheckpointError(f"{path}: this format is one file, expected a name that ends in {self.suffix}")
        try:
            outputs.check_file(path)
            if source is not None:
                outputs.check_apart(path, source)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        if Path(path).exists() and not self.is_ours(Path(path)):
            raise CheckpointError(f"{path}: exists and vit-parity didn't write it; remove it or choose another name")


def write_directory(
    path: Path, target: Directory, tensors: Mapping[str, np.ndarray], documents: Mapping[str, Any]
) -> None:
    """Writes tensors and JSON files to a new directory beside the place, then moves it there (`parity.outputs`).

    Args:
        path: The directory to make; an older checkpoint of the same format there is replaced.
        target: What the format writes.
        tensors: One after another, so they may be lazy.
        documents: JSON values by file name.

    Raises:
        CheckpointError: The same as from `Destination.check`, or tensors that the container can't hold.
        OSError: The disk refuses.
    """
    target.check(path)
    with outputs.whole_directory(path, replaced=target.replaced(path)) as new:
        with progress_bar(f"Writing {path.name}") as progress:
            whole = {} if target.weights == WEIGHTS else {"shard_bytes": sys.maxsize}
            write_tensors(new, tensors, progress=progress, **whole)
        if target.weights != WEIGHTS:
            (new / WEIGHTS).rename(new / target.weights)
        for name, document in documents.items():
            (new / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def is_by_us(document: Path) -> bool:
    """Whether a document says that we wrote it."""
    return find_json(document).items() >= WRITTEN_BY.items()


def _looked_for(directory: Path) -> list[str]:
    names = (child.name for child in directory.iterdir())
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in _LOOKED_FOR))
