"""Flax's msgpack: what `flax.serialization` makes of parameters, in `flax_model.msgpack` and `checkpoint_1000`.

Read here and not through the msgpack library, which would hold a whole file in memory: the places of the arrays are
noted, and each is read when it is asked for. An array is an extension, within which is msgpack again; one of more than
a gigabyte is a dictionary of flat pieces.

    {"params": {"head": {"kernel": ext 1 [[192, 1000], "float32", 768000 bytes], "bias": ...}}}

Source: the msgpack specification; Flax `flax/serialization.py` (`_ndarray_to_bytes`, `_chunk`).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..accounting import CheckpointError
from .stored import FileTensors, Shape, StoredArray, check_shape, read_exactly, short
from .tree import flatten

_MAX_DEPTH = 32
# More values than any checkpoint has; each of them may take some hundred bytes of memory.
_MAX_VALUES = 10_000_000
_MAX_TEXT = 65536
_ARRAYS = (1, 3)  # an array, and a scalar of NumPy, which is written as one
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    **{name: np.dtype(name) for name in ("bool", "float16", "float32", "float64", "complex64", "complex128")},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
    },
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {0xCA + place: f">{kind}" for place, kind in enumerate("fdBHIQbhiq")}
# How many bytes the length has, by the first byte of a value.
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


def is_msgpack(start: bytes) -> bool:
    """Whether a file that starts so is a map of msgpack, as far as its first byte says."""
    return bool(start) and (0x81 <= start[0] <= 0x8F or start[0] in _MAPS)


def read_msgpack(file: Path) -> FileTensors:
    """The arrays of a file that Flax wrote; none is read yet.

    Raises:
        CheckpointError: It isn't msgpack to its end, or has arrays that aren't what Flax writes.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            reader = _Reader(mapped, 0, mapped.size())
            value = reader.value()
            if reader.position != reader.end:
                raise ValueError(f"got {reader.end - reader.position} bytes behind the end, at byte {reader.position}")
            found, ignored = flatten(value, _tensor_of)
            arrays = {name: _named(file, mapped, name, described) for name, described in found.items()}
    except ValueError as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(f"{file}: msgpack: {error}") from None
    return FileTensors(file, arrays, ignored, "msgpack")


@dataclass(frozen=True)
class ChunkedArray(StoredArray):
    """An array that is in a file in flat pieces one after another, with something else between them.

    Attributes:
        pieces: First byte and number of bytes of each.
    """

    pieces: tuple[tuple[int, int], ...] = field(kw_only=True)

    def _read(self, first: int, shape: Shape, strides: Shape) -> np.ndarray:
        # All bytes from the first to the last that are wanted; of a part along the first axis, these and no others.
        last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        content = np.empty(last + self.dtype.itemsize - first, np.uint8)
        start = 0
        with self.file.open("rb", buffering=0) as file:
            for offset, count in self.pieces:
                begin, end = max(first, start), min(first + content.nbytes, start + count)
                if begin < end:
                    file.seek(offset + begin - start)
                    read_exactly(file, content[begin - first : end - first])
                start += count
        part = np.ndarray(shape, self.dtype, content.data, 0, strides)
        return part if part.nbytes == content.nbytes and part.flags.c_contiguous else part.copy(order="C")


@dataclass(frozen=True, slots=True)
class _Extension:
    code: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Binary:
    start: int
    end: int


class _Reader:
    """Takes msgpack apart from a position on; bytes stay where they are."""

    def __init__(self, content: mmap.mmap, position: int, end: int):
        self.content = content
        self.position = position
        self.end = end
        self.left = _MAX_VALUES

    def value(self, depth: int = 0) -> Any:
        """The next value: plain ones, `_Binary` or `_Extension`; None of text that is too long for a name."""
        self.left -= 1
        if depth > _MAX_DEPTH or self.left < 0:
            what = f"{_MAX_DEPTH} values within each other" if depth > _MAX_DEPTH else f"{_MAX_VALUES} values"
            raise ValueError(f"got more than {what}, which no checkpoint has")
        code = self._skip(1)
        first = self.content[code]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            size = struct.calcsize(_NUMBERS[first])
            return struct.unpack_from(_NUMBERS[first], self.content, self._skip(size))[0]
        if first < 0xC0 or first in _TEXTS or first in _LISTS or first in _MAPS:
            return self._sized(first, depth)
        if first in _BYTES:
            size = self._number(_BYTES[first])
            start = self._skip(size)
            return _Binary(start, start + size)
        if first in _EXTENSIONS or 0xD4 <= first <= 0xD8:
            size = self._number(_EXTENSIONS[first]) if first in _EXTENSIONS else 1 << (first - 0xD4)
            kind = struct.unpack_from(">b", self.content, self._skip(1))[0]
            start = self._skip(size)
            return _Extension(kind, start, start + size)
        raise ValueError(f"got byte 0x{first:x} at {code}, which starts no value")

    def _sized(self, first: int, depth: int) -> Any:
        """A map, a list or text."""
        if first in _MAPS or first < 0x90:
            return self._map(self._number(_MAPS[first]) if first in _MAPS else first & 0x0F, depth)
        if first in _LISTS or first < 0xA0:
            count = self._number(_LISTS[first]) if first in _LISTS else first & 0x0F
            return [self.value(depth + 1) for _ in range(count)]
        size = self._number(_TEXTS[first]) if first in _TEXTS else first & 0x1F
        start = self._skip(size)
        return self.content[start : start + size].decode() if size <= _MAX_TEXT else None

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            at = self.position
            key = self.value(depth + 1)
            if not isinstance(key, str | int):
                raise ValueError(f"got a key that is no text at byte {at}")
            if (name := str(key)) in found:
                raise ValueError(f"key {short(name)} is there twice")
            found[name] = self.value(depth + 1)
        return found

    def _number(self, size: int) -> int:
        start = self._skip(size)
        return int.from_bytes(self.content[start : start + size], "big")

    def _skip(self, size: int) -> int:
        """Where the next bytes start, which are left behind."""
        start, self.position = self.position, self.position + size
        if self.position > self.end:
            raise ValueError(f"ends too early: got {self.end} bytes, expected {self.position} at least")
        return start


def _tensor_of(value: Any) -> Any:
    """An extension, or a dictionary of pieces; None of anything else."""
    is_array = isinstance(value, _Extension) and value.code in _ARRAYS
    return value if is_array or (isinstance(value, dict) and value.get(_CHUNKED) is True) else None


def _named(file: Path, content: mmap.mmap, name: str, value: _Extension | dict[str, Any]) -> StoredArray:
    try:
        return _array(file, content, value) if isinstance(value, _Extension) else _chunked(file, content, value)
    except ValueError as error:
        raise CheckpointError(f"{file}: tensor {short(name)}: {error}") from None


def _array(file: Path, content: mmap.mmap, extension: _Extension) -> StoredArray:
    match _Reader(content, extension.start, extension.end).value():
        case [list() as shape, str() as name, _Binary() as numbers]:
            pass
        case other:
            raise ValueError(f"got {short(other)}, expected a shape, a type and bytes")
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise ValueError(f"dtype: got {short(name)}, expected one of {', '.join(_DTYPES)}")
    size = check_shape(tuple(shape), dtype)
    if numbers.end - numbers.start != size:
        raise ValueError(f"got {numbers.end - numbers.start} bytes, expected {size} for {name} {short(shape)}")
    return StoredArray(file, numbers.start, dtype, tuple(shape))


def _chunked(file: Path, content: mmap.mmap, value: dict[str, Any]) -> ChunkedArray:
    """An array of several pieces; tuples are dictionaries with the places as keys."""
    shape, chunks = (_places(value.get(key), key) for key in ("shape", "chunks"))
    parts = [_array(file, content, chunk) for chunk in chunks if isinstance(chunk, _Extension)]
    if not parts or len(parts) != len(chunks) or any(part.dtype != parts[0].dtype for part in parts):
        raise ValueError("chunks: got something else than arrays of one type")
    dtype = parts[0].dtype
    pieces = tuple((part.offset, math.prod(part.shape) * dtype.itemsize) for part in parts)
    size = check_shape(shape, dtype)
    if size != sum(count for _, count in pieces):
        raise ValueError(f"chunks: got {sum(count for _, count in pieces)} bytes, expected {size} for {short(shape)}")
    return ChunkedArray(file, 0, dtype, shape, pieces=pieces)


def _places(value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, dict) or list(value) != [str(place) for place in range(len(value))]:
        raise ValueError(f"{key}: got {short(value)}, expected a dictionary from 0 on")
    return tuple(value.values())
