"""What can be said of a tensor in a file without knowing what it is for: type, shape, mean, spread, NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .containers.parts import flat_pieces
from .containers.safetensors_file import Progress
from .containers.stored import Shape, dtypes_of, shapes_of


@dataclass(frozen=True, kw_only=True)
class TensorStatistics:
    """One tensor.

    Attributes:
        name: The name of the tensor.
        dtype: The type of its elements.
        shape: The shape of the tensor.
        mean: The mean of the finite elements in float64, of complex ones that of their sizes; NaN if there are none.
        std: Their standard deviation, likewise.
        nan: Elements that are NaN.
        infinite: Elements that are infinite.
    """

    name: str
    dtype: str
    shape: Shape
    mean: float
    std: float
    nan: int
    infinite: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null stands for the mean of nothing."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def statistics_of(tensors: Mapping[str, np.ndarray], *, progress: Progress | None = None) -> Iterator[TensorStatistics]:
    """Goes through all tensors, a piece of one at a time.

    Args:
        tensors: The tensors by name; they may still be in files.
        progress: Called with the bytes that were read and those that will be in all.

    Raises:
        CheckpointError: A tensor can't be read; names the file and the tensor.
    """
    shapes, dtypes = shapes_of(tensors), dtypes_of(tensors)
    total, done = sum(math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()), 0
    for name, shape in shapes.items():
        count, mean, squares, nan, infinite = 0, 0.0, 0.0, 0, 0
        for piece in flat_pieces(tensors, name):
            done += piece.nbytes
            if progress is not None:
                progress(done, total)
            with np.errstate(all="ignore"):
                values = np.abs(piece.astype(np.complex128)) if piece.dtype.kind == "c" else piece.astype(np.float64)
                finite = values[np.isfinite(values)]
                if finite.size < values.size:
                    nan += int(np.count_nonzero(np.isnan(values)))
                    infinite += int(np.count_nonzero(np.isinf(values)))
                if finite.size:
                    # Of two parts: their squares, and those of their means around the common one.
                    step, share = float(finite.mean()) - mean, finite.size / (count + finite.size)
                    squares += float(((finite - finite.mean()) ** 2).sum()) + step * step * count * share
                    mean, count = mean + step * share, count + finite.size
        std = math.sqrt(squares / count) if count else math.nan
        yield TensorStatistics(
            name=name,
            dtype=dtypes[name].name,
            shape=tuple(shape),
            mean=mean if count else math.nan,
            std=std,
            nan=nan,
            infinite=infinite,
        )
