"""NumPy's `.npz`: a zip archive with one `.npy` file for each array. Google publishes ViTs in it.

Source: NumPy's `numpy.lib.format`, which reads the headers; nothing is unpickled.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

import ml_dtypes
import numpy as np

from ..accounting import CheckpointError
from .stored import FileTensors, Shape, StoredArray, c_strides, check_shape, read_exactly, short
from .zip_file import BROKEN, Member

_SUFFIX = ".npy"
_MAX_HEADER = 4096
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class DeflatedArray(StoredArray):
    """An array in a compressed member: there the offset is that in the member, and all of it is read before a part.

    Attributes:
        member: Its member.
    """

    member: Member = field(kw_only=True)

    def _read(self, first: int, shape: Shape, strides: Shape) -> np.ndarray:
        # The size was checked against the archive's; `zipfile` holds the bytes against their checksum at the end.
        whole = np.empty(self.member.size - self.offset, np.uint8)
        try:
            with ZipFile(self.file) as archive, archive.open(self.member.info) as opened:
                opened.read(self.offset)
                read_exactly(opened, whole)
        except BROKEN as error:
            raise ValueError(str(error)) from None
        part = np.ndarray(shape, self.dtype, whole.data, first - self.offset, strides)
        return part if part.nbytes == whole.nbytes and part.flags.c_contiguous else part.copy(order="C")


def read_npz(file: Path, found: Mapping[str, Member]) -> FileTensors:
    """The arrays of an archive; their headers alone are read.

    Args:
        file: The archive.
        found: Its members.

    Raises:
        CheckpointError: A member that is no array of numbers, or not as large as its header says.
    """
    arrays = {}
    for name, member in found.items():
        if not name.endswith(_SUFFIX):
            raise CheckpointError(f"{file}: got {short(name)}, expected {_SUFFIX} files alone")
        try:
            arrays[name.removesuffix(_SUFFIX)] = _array(member)
        except ValueError as error:
            raise CheckpointError(f"{file}: tensor {short(name.removesuffix(_SUFFIX))}: {error}") from None
    return FileTensors(file, arrays, container="npz")


def _array(member: Member) -> StoredArray:
    start = io.BytesIO(member.start(_MAX_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        if version not in _HEADERS:
            raise ValueError(f"got version {version} of the format, expected 1.0 or 2.0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header from Python 2 is none of the reader's business
            shape, is_fortran, dtype = _HEADERS[version](start, max_header_size=_MAX_HEADER)
    except Exception as error:  # whatever Python's parser raises, such as tokenize.TokenError, NumPy lets through
        raise ValueError(f"header: {type(error).__name__}: {str(error)[:200]}") from None
    dtype = np.dtype(ml_dtypes.bfloat16) if dtype.kind == "V" and dtype.str[1:] == "V2" else dtype
    if dtype.kind not in "biufc" and dtype != ml_dtypes.bfloat16:
        raise ValueError(f"dtype: got {short(str(dtype))}, expected numbers")
    size = start.tell() + check_shape(shape, dtype)
    if member.size != size:
        raise ValueError(f"got {member.size} bytes, expected {size} for its header and {dtype} {short(shape)}")
    strides = c_strides(shape[::-1], dtype.itemsize)[::-1] if is_fortran else None
    if member.is_stored:
        return StoredArray(member.archive, member.offset + start.tell(), dtype, shape, strides)
    return DeflatedArray(member.archive, start.tell(), dtype, shape, strides, member=member)
