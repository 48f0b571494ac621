"""How an array of Flax is written in the canonical (timm, PyTorch) layout: by one einops pattern, on NumPy arrays.

The layers of `vit_jax` declare these rules for their parameters (`leaves`). They are here, below the frameworks, for
a run that Flax trained keeps the rules of its arrays, and is read by them without the model (`formats/run.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import einops
import numpy as np

# Reads the part of a canonical tensor at a slice for each of its first axes.
ReadPart = Callable[[tuple[slice, ...]], np.ndarray]


@dataclass(frozen=True)
class Leaf:
    """The rule for one array.

    Attributes:
        name: What the canonical layout calls it.
        layout: einops pattern from the Flax axes to the canonical ones. A parameter with more axes than the pattern's
            left side has its last axes merged: a projection to (3, heads, head_dim) is an `o` to PyTorch.
    """

    name: str
    layout: str

    def to_canonical(self, value: np.ndarray) -> np.ndarray:
        """A parameter's value in the canonical layout, contiguous."""
        # `np.ascontiguousarray` would give a scalar an axis.
        return np.asarray(einops.rearrange(value.reshape(self._merged(value.shape)), self.layout), order="C")

    def from_canonical(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `to_canonical`, for a parameter of that shape."""
        source, target = self.layout.split(" -> ")
        return np.asarray(einops.rearrange(value, f"{target} -> {source}").reshape(shape), order="C")

    def read_part(self, read: ReadPart, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
        """A part of a parameter, for which only its own numbers are read.

        Args:
            read: Gives the part of the canonical tensor at a slice for each of its axes.
            shape: Shape of the parameter in Flax.
            index: A slice for each axis of the parameter.
        """
        source, target = (side.split() for side in self.layout.split(" -> "))
        kept = max(len(source) - 1, 0)
        # Where the part lies on the canonical axis that the last axes are merged to, as runs of neighbours: a few heads
        # of (3, heads, head_dim) are three of them.
        positions = np.arange(math.prod(shape[kept:])).reshape(shape[kept:])[index[kept:]]
        flat = positions.ravel()
        runs = np.split(flat, np.flatnonzero(np.diff(flat) != 1) + 1) if flat.size else []
        if not source or not runs:
            return self.from_canonical(read(()), shape)[index]
        ranges = dict(zip(source, index[:kept], strict=False))
        parts = []
        for run in runs:
            ranges[source[-1]] = slice(int(run[0]), int(run[-1]) + 1)
            parts.append(read(tuple(ranges[axis] for axis in target)))
        part = np.concatenate(parts, axis=target.index(source[-1])) if len(parts) > 1 else parts[0]
        part = einops.rearrange(part, f"{' '.join(target)} -> {' '.join(source)}")
        return part.reshape(*part.shape[:kept], *positions.shape)

    def canonical_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the parameter in the canonical layout."""
        source, target = (side.split() for side in self.layout.split(" -> "))
        sizes = dict(zip(source, self._merged(shape), strict=True))
        return tuple(sizes[axis] for axis in target)

    def _merged(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = len(self.layout.split(" -> ")[0].split()) - 1
        if kept < 0:  # a scalar
            return ()
        return (*shape[:kept], math.prod(shape[kept:]))
