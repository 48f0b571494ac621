"""Tensors in `.safetensors` files, one or several with an index, read one at a time.

Source: the safetensors format, and the index file that Hugging Face writes beside shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors then uses
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .accounting import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 1000**3


class LazyTensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name; each is read from its file when it is asked for.

    Args:
        path: A `.safetensors` file, an index file, or a directory that holds `model.safetensors` or its index.

    Raises:
        CheckpointError: No such file, or one that isn't safetensors; names the file.
    """

    def __init__(self, path: Path):
        self._file_of = {name: file for file in _files(path) for name in _names(file)}
        self._path = path

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        file = self._file_of[name]
        try:
            with safe_open(file, framework="np") as opened:
                return opened.get_tensor(name)
        except (SafetensorError, OSError, TypeError) as error:
            raise CheckpointError(f"{file}: tensor {name}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        """Names, file by file."""
        return iter(self._file_of)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._file_of)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, read from the headers alone."""
        found = {}
        for file in dict.fromkeys(self._file_of.values()):
            with safe_open(file, framework="np") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        return found


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name; of tensors that are still in a file, without reading them."""
    shapes = getattr(tensors, "shapes", None)
    return shapes() if shapes else {name: tensor.shape for name, tensor in tensors.items()}


def write_tensors(directory: Path, tensors: Mapping[str, np.ndarray], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes `model.safetensors`, or shards and their index where the tensors are larger than one shard.

    Args:
        directory: An existing directory.
        tensors: By name; read one shard at a time, so it may be lazy.
        shard_bytes: Largest file, unless one tensor alone is larger.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = np.ascontiguousarray(tensor)
        size += tensor.nbytes
        total += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], directory / WEIGHTS, metadata={"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        candidates = [path / WEIGHTS, path / INDEX]
        path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        # A name with a path in it could read a file outside of the checkpoint.
        plain = all(isinstance(name, str) and Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        plain, names = False, []
    if not plain:
        raise CheckpointError(f"{path}: expected a JSON object whose weight_map names files beside it")
    return [path.parent / name for name in names]


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="np") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file: {error}") from None
