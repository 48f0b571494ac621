"""The safetensors container: 8 bytes of length, a JSON header, the numbers; and its sharded form with an index.

Read here and not through the library so that an error can name the tensor, a mesh's devices can read their own parts,
and a file of any size can be written with one tensor in memory. Tests hold both directions against the library.
Source: the safetensors format; the index that Hugging Face writes beside shards.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..accounting import CheckpointError
from .stored import FileTensors, Shape, StoredArray, check_shape, dtypes_of, shapes_of, short

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 1000**3

# In the library's order, which is the order of tensors in a file from the last to the first.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "C64": np.dtype(np.complex64),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}
_MAX_HEADER = 100_000_000
_METADATA = "__metadata__"

# Called with the bytes that were written so far and those there are in all.
Progress = Callable[[int, int], None]


def read_safetensors(file: Path) -> FileTensors:
    """The tensors of one file; its header alone is read.

    Raises:
        CheckpointError: Not a safetensors file, or a header that doesn't fit the file; names the tensor.
    """
    header, start, end = _header(file)
    arrays: dict[str, StoredArray] = {}
    regions = []
    for name, entry in header.items():
        try:
            dtype, shape, first, last = _entry(entry)
        except ValueError as error:
            raise CheckpointError(f"{file}: tensor {short(name)}: {error}") from None
        arrays[name] = StoredArray(file, start + first, dtype, shape)
        regions.append((first, last, name))
    position = 0
    for first, last, name in sorted(regions):
        if first != position:
            got = f"got bytes {first} to {last}, expected them to start at {position}"
            raise CheckpointError(f"{file}: tensor {short(name)}: data_offsets: {got}, where the tensor before ends")
        position = last
    if position != end - start:
        last_name = f"tensor {short(max(regions)[2])}: " if regions else ""
        raise CheckpointError(f"{file}: {last_name}got {end - start} bytes of data, expected {position} by the header")
    return FileTensors(file, arrays, container="safetensors")


def write_tensors(
    directory: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Writes `model.safetensors`, or shards and their index where the tensors are larger than one shard.

    The bytes are those that the safetensors library writes, but one tensor at a time is in memory.

    Args:
        directory: An existing directory.
        tensors: The tensors by name; they may be lazy.
        shard_bytes: Largest file, unless one tensor alone is larger.
        progress: Called after each tensor.

    Raises:
        CheckpointError: A type that the format lacks, or a tensor that is not what its mapping says it is.
    """
    shapes, dtypes = shapes_of(tensors), dtypes_of(tensors)
    for name, dtype in dtypes.items():
        if dtype not in _NAMES:
            raise CheckpointError(f"{directory}: tensor {name}: got type {dtype}, expected one of {', '.join(DTYPES)}")
    sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(sizes, key=lambda name: (-_RANK[dtypes[name]], name)):
        if shards[-1] and filled + sizes[name] > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += sizes[name]
    total, written = sum(sizes.values()), 0
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        with (directory / file).open("wb") as opened:
            opened.write(_header_bytes({name: (dtypes[name], shapes[name]) for name in names}))
            for name in names:
                opened.write(_bytes_of(tensors[name], dtypes[name], shapes[name], f"{directory}: tensor {name}"))
                written += sizes[name]
                if progress is not None:
                    progress(written, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """The header without its metadata, where the data starts, and where the file ends."""
    try:
        with file.open("rb") as opened:
            end = file.stat().st_size
            length = int.from_bytes(opened.read(8), "little")
            if end < 8 or length > min(end - 8, _MAX_HEADER):
                got = f"got a header of {length} bytes, expected at most {max(0, min(end - 8, _MAX_HEADER))}"
                raise CheckpointError(f"{file}: not a readable safetensors file: {got}")
            text = opened.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: not a readable safetensors file: {error.strerror}") from None
    try:
        header = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file: header: {error}") from None
    metadata = header.pop(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{file}: header: expected a JSON object whose {_METADATA} holds strings")
    return header, 8 + length, end


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"tensor {short(twice)} is there twice")
    return found


def _entry(entry: Any) -> tuple[np.dtype, Shape, int, int]:
    """Type, shape, first byte and end of a tensor, as its header says."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        got = short(list(entry)) if isinstance(entry, dict) else short(entry)
        raise ValueError(f"got {got}, expected dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"dtype: got {short(entry['dtype'])}, expected one of {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list):
        raise ValueError(f"shape: got {short(shape)}, expected a list")
    size = check_shape(tuple(shape), dtype)
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(x) is not int or x < 0 for x in offsets):
        raise ValueError(f"data_offsets: got {short(offsets)}, expected the first byte and the end")
    if offsets[1] - offsets[0] != size:
        got = f"got {short(offsets[1] - offsets[0])} bytes"
        raise ValueError(f"data_offsets: {got}, expected {size} for {entry['dtype']} {short(shape)}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _header_bytes(entries: Mapping[str, tuple[np.dtype, Shape]]) -> bytes:
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in entries.items():
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: np.ndarray, dtype: np.dtype, shape: Shape, what: str) -> memoryview:
    if tensor.shape != tuple(shape) or tensor.dtype != dtype:
        raise CheckpointError(f"{what}: got {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}")
    # Of NumPy's own types in the machine's order, which is little-endian wherever JAX and PyTorch run.
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
