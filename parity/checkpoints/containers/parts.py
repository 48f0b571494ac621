"""A tensor of any size piece by piece, without holding it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from .npz_file import DeflatedArray
from .stored import Index, Shape, shapes_of, slice_of
from .tensors import FileTensors

_READ = 2**22  # elements that are read at once
_PIECE = 2**13  # elements of a piece: intermediate results in float64 then stay in a processor's cache


def flat_pieces(tensors: Mapping[str, np.ndarray], name: str) -> Iterator[np.ndarray]:
    """The elements of a tensor in C order, as flat arrays one after another.

    Two tensors of one shape come in the same pieces, whatever their types and files.

    Args:
        tensors: May still be in a file; then parts of the tensor are read, unless it is compressed.
        name: The name of the tensor.
    """
    shape = tuple(shapes_of(tensors)[name])
    if isinstance(tensors, FileTensors) and isinstance(tensors.arrays[name], DeflatedArray):
        tensors = {name: tensors[name]}  # each part would inflate all of it again
    for index in _indices(shape):
        part = np.ascontiguousarray(slice_of(tensors, name, index)).reshape(-1)
        for start in range(0, part.size, _PIECE):
            yield part[start : start + _PIECE]


def _indices(shape: Shape) -> Iterator[Index]:
    """Parts of an array that together are all of it, in C order."""
    # Rows along this axis are small enough; along the axes before it, one place at a time is.
    rows = [math.prod(shape[axis:]) for axis in range(len(shape) + 1)]
    if rows[0] <= _READ:
        yield ()
        return
    axis = next(axis for axis in range(len(shape)) if rows[axis + 1] <= _READ)
    step = _READ // rows[axis + 1]
    for place in itertools.product(*map(range, shape[:axis])):
        before = tuple(slice(i, i + 1) for i in place)
        for start in range(0, shape[axis], step):
            yield (*before, slice(start, start + step))
