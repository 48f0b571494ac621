"""Arrays that are still in a file, and mappings of them: what every container of tensors comes down to."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..accounting import CheckpointError

Shape = tuple[int, ...]
# One slice for each of the first axes; axes that are left out are whole.
Index = tuple[slice, ...]

_MAX_AXES = 32
_MAX_BYTES = 2**48
_CHUNK = 2**22  # at once; a compressed member holds as much a second time


@dataclass(frozen=True)
class StoredArray:
    """An array somewhere in a file.

    Attributes:
        file: The file.
        offset: Where the first element begins in the file, in bytes.
        dtype: The type of the elements, in the file's byte order.
        shape: Sizes of the axes.
        strides: Bytes from one element to the next along each axis; None for C order.
    """

    file: Path
    offset: int
    dtype: np.dtype
    shape: Shape
    strides: Shape | None = None

    def read(self, index: Index = ()) -> np.ndarray:
        """A part of the array, by default all of it, in C order and the machine's byte order; nothing else is read.

        Raises:
            OSError: The file can't be read.
            ValueError: It is shorter than it was.
        """
        strides = c_strides(self.shape, self.dtype.itemsize) if self.strides is None else self.strides
        first, shape = self.offset, []
        for axis, (size, stride) in enumerate(zip(self.shape, strides, strict=True)):
            start, stop, step = index[axis].indices(size) if axis < len(index) else (0, size, 1)
            if step != 1:
                raise ValueError(f"index: got step {step}, expected 1")
            first += start * stride
            shape.append(max(stop - start, 0))
        array = self._read(first, tuple(shape), strides) if math.prod(shape) else np.empty(shape, self.dtype)
        return array.astype(self.dtype.newbyteorder("="), copy=False)

    def _read(self, first: int, shape: Shape, strides: Shape) -> np.ndarray:
        if _is_contiguous(shape, strides, self.dtype.itemsize):
            with self.file.open("rb", buffering=0) as file:
                file.seek(first)
                return read_exactly(file, np.empty(shape, self.dtype))
        # The kernel then reads the pages that are touched, however the part is scattered.
        with self.file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.ndarray(shape, self.dtype, mapped, first, strides)
            copy = np.array(view, order="C")
            del view  # the map can't be closed while it is there
            return copy


@dataclass(frozen=True)
class HeldArray(StoredArray):
    """An array in bytes that are in memory, since there is no part of the file that is these bytes and nothing else.

    Attributes:
        held: The bytes, or text with one character for each byte.
    """

    held: bytes | bytearray | str = field(kw_only=True, repr=False)

    def _read(self, first: int, shape: Shape, strides: Shape) -> np.ndarray:
        content = self.held.encode("latin1") if isinstance(self.held, str) else self.held
        return np.array(np.ndarray(shape, self.dtype, content, first, strides), order="C")


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name, each read when it is asked for.

    A translation of names or layouts subclasses this and answers `shapes` and `dtypes` without reading a tensor.

    Attributes:
        path: What was opened, for error messages.
        ignored: Why each part of the files that is no tensor here was left out, by its name.
    """

    path: Path
    ignored: Mapping[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.shapes()  # a mapping's own way would read the tensor

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor."""
        raise NotImplementedError

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor's elements."""
        raise NotImplementedError

    def slice(self, name: str, index: Index) -> np.ndarray:
        """A part of a tensor; here it is read whole and cut.

        Args:
            name: The name of the tensor.
            index: A slice of step 1 for each of its first axes.
        """
        return np.ascontiguousarray(self[name][index])

    def file_of(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self.path


@dataclass(frozen=True, eq=False)
class FileTensors(Tensors):
    """Tensors that are in files as they are.

    Attributes:
        path: What was opened.
        arrays: Where each tensor is.
        ignored: Why parts of the files were left out.
        container: What kind of file it is: `safetensors`, `torch`, `torchscript`, `pickle`, `npz` or `msgpack`.
    """

    path: Path
    arrays: Mapping[str, StoredArray] = field(repr=False)
    ignored: Mapping[str, str] = field(default_factory=dict, repr=False)
    container: str = ""

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor.

        Raises:
            KeyError: No such tensor.
            CheckpointError: Its file can't be read any more.
        """
        return self.slice(name, ())

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor; reads none."""
        return {name: array.shape for name, array in self.arrays.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor's elements in memory; reads none."""
        return {name: array.dtype.newbyteorder("=") for name, array in self.arrays.items()}

    def slice(self, name: str, index: Index) -> np.ndarray:
        """Reads a part of one tensor and nothing else."""
        array = self.arrays[name]
        try:
            return array.read(index)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{array.file}: tensor {name}: {error}") from None

    def file_of(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self.arrays[name].file

    def under(self, prefix: str) -> FileTensors:
        """The tensors whose names start with a prefix, without it; what is ignored stays as it is.

        Raises:
            CheckpointError: No name starts with it.
        """
        arrays = {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}
        if not arrays:
            got = short(sorted({name.partition(".")[0] for name in self.arrays}))
            raise CheckpointError(f"{self.path}: got tensors under {got}, expected some under {prefix}")
        return replace(self, arrays=arrays)


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """Shape of each tensor by name; of tensors that are still in a file, without reading them."""
    shapes = getattr(tensors, "shapes", None)
    return shapes() if shapes else {name: tensor.shape for name, tensor in tensors.items()}


def dtypes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, np.dtype]:
    """Type of each tensor by name; of tensors that are still in a file, without reading them."""
    dtypes = getattr(tensors, "dtypes", None)
    return dtypes() if dtypes else {name: tensor.dtype for name, tensor in tensors.items()}


def slice_of(tensors: Mapping[str, np.ndarray], name: str, index: Index) -> np.ndarray:
    """A part of a tensor; of one that is still in a file, that part alone is read."""
    part = getattr(tensors, "slice", None)
    return part(name, index) if part else np.asarray(tensors[name])[index]


def check_shape(shape: Shape, dtype: np.dtype) -> int:
    """Bytes of an array of a shape that a file claims.

    Raises:
        ValueError: No array can have this shape.
    """
    if len(shape) > _MAX_AXES:
        raise ValueError(f"shape: got {len(shape)} axes, expected at most {_MAX_AXES}")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"shape: got {short(shape)}, expected whole numbers from 0 on")
    # An axis of size 0 doesn't excuse the others: NumPy multiplies them all the same.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MAX_BYTES:
        raise ValueError(f"shape: got {short(shape)}, which is larger than any file")
    return math.prod(shape) * dtype.itemsize


def c_strides(shape: Shape, itemsize: int) -> Shape:
    """Bytes between neighbours along each axis of an array in C order."""
    strides = []
    for size in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(size, 1)
    return tuple(reversed(strides))


def read_exactly(file, array: np.ndarray) -> np.ndarray:
    """Fills an array in C order from a binary file.

    Raises:
        ValueError: The file ends before.
    """
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        count = file.readinto(rest[:_CHUNK])
        if not count:
            raise ValueError(f"the file ends {len(rest)} bytes too early")
        rest = rest[count:]
    return array


def short(value: object, depth: int = 2) -> str:
    """A value as an error message can show it, however long and deep the file made it."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | tuple):
        shown = [short(item, depth - 1) for item in value[:8]] if depth else []
        return f"[{', '.join([*shown, '...'] if len(value) > len(shown) else shown)}]"
    text = repr(value) if isinstance(value, str | bytes | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_contiguous(shape: Shape, strides: Shape, itemsize: int) -> bool:
    expected = c_strides(shape, itemsize)
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, expected, strict=True))
