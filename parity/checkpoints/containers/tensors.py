"""Opening the files that checkpoints keep their tensors in, whichever container it is.

| container | recognised by |
| --- | --- |
| safetensors | `.safetensors`, or nothing else fits |
| PyTorch (`.bin`, `.pt`, `.pth`) | a zip archive with `data.pkl`, or the magic number of the older layout |
| NumPy (`.npz`) | any other zip archive |
| shards of the first two | `.json`, an index whose `weight_map` names the file of each tensor |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..accounting import CheckpointError
from .npz_file import read_npz
from .pickle_file import LEGACY_MAGIC, is_pickle, read_pickled, read_torch_legacy, read_torch_zip
from .safetensors_file import INDEX, SHARD_BYTES, WEIGHTS, read_safetensors, write_tensors
from .stored import FileTensors, StoredArray, Tensors, dtypes_of, shapes_of, short, slice_of
from .zip_file import members

__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "WEIGHTS",
    "FileTensors",
    "StoredArray",
    "Tensors",
    "dtypes_of",
    "open_tensors",
    "shapes_of",
    "slice_of",
    "write_tensors",
]

# What a directory is searched for, in this order: the safe container first.
CANDIDATES = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")


def open_tensors(path: str | Path) -> FileTensors:
    """The tensors of a file, of shards with an index, or of a directory with either; none of them is read yet.

    Args:
        path: A `.safetensors`, `.bin`, `.pt`, `.pth` or `.npz` file, an index, or a directory with `model.safetensors`,
            `pytorch_model.bin` or an index of one of them.

    Returns:
        Every tensor under its whole path in the file (`state_dict.module.head.bias`), whatever it is for; and `ignored`
        says why each part without one is left out.

    Raises:
        CheckpointError: No such file, or one that isn't what it should be; names the file and the tensor.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in CANDIDATES if (path / name).is_file()), path / WEIGHTS)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".json":
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(LEGACY_MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if start == LEGACY_MAGIC:
        return read_torch_legacy(path)
    if is_pickle(start):
        return read_pickled(path)
    if start[:2] == b"PK":
        found = members(path)
        is_torch = any(name.rpartition("/")[2] == "data.pkl" for name in found)
        return read_torch_zip(path, found) if is_torch else read_npz(path, found)
    if path.suffix in (".bin", ".pt", ".pth", ".npz"):
        got = short(start[:8])
        raise CheckpointError(f"{path}: starts with {got}, expected a zip archive or a file that torch.save wrote")
    return read_safetensors(path)


def _open_shards(index: Path) -> FileTensors:
    weight_map = _weight_map(index)
    arrays: dict[str, StoredArray] = {}
    ignored: dict[str, str] = {}
    for file in dict.fromkeys(weight_map.values()):
        shard = open_tensors(index.parent / file)
        for name, array in shard.arrays.items():
            if weight_map.get(name) != file:
                expected = f"expected {weight_map[name]}" if name in weight_map else "expected none"
                raise CheckpointError(f"{index}: tensor {short(name)}: found in {file}, {expected} by the index")
            arrays[name] = array
        ignored |= shard.ignored
    for name, file in weight_map.items():
        if name not in arrays:
            raise CheckpointError(f"{index}: tensor {short(name)}: expected in {file}, which doesn't have it")
    return FileTensors(index, arrays, ignored)


def _weight_map(index: Path) -> dict[str, str]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    try:
        found = json.loads(index.read_bytes(), object_pairs_hook=no_duplicates)["weight_map"]
        # A name with a path in it could read a file outside of the checkpoint, and an index one that never ends.
        plain = all(Path(file).name == file and Path(file).suffix not in ("", ".json") for file in found.values())
    except OSError as error:
        raise CheckpointError(f"{index}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: expected a JSON object with a weight_map of names to files: {error}") from None
    if not plain:
        raise CheckpointError(f"{index}: expected a weight_map of names to files beside it")
    return found
