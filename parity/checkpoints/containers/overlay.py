"""Tensors of which some are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .stored import dtypes_of, shapes_of, slice_of


class Overlay(Mapping[str, np.ndarray]):
    """Tensors of which some are replaced and some left out; the others stay lazy.

    Args:
        base: The tensors.
        changed: Replacements and additions by name; None leaves a tensor out.
    """

    def __init__(self, base: Mapping[str, np.ndarray], changed: Mapping[str, np.ndarray | None]):
        self._base = base
        self._changed = {name: value for name, value in changed.items() if value is not None}
        self._names = dict.fromkeys([*(name for name in base if name not in changed), *self._changed])

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that are replaced or added."""
        return tuple(self._changed)

    def __getitem__(self, name: str) -> np.ndarray:
        """One tensor."""
        if name in self._changed:
            return self._changed[name]
        if name in self._names:
            return self._base[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor; reads none."""
        shapes = {name: shape for name, shape in shapes_of(self._base).items() if name in self._names}
        return shapes | {name: value.shape for name, value in self._changed.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor; reads none."""
        dtypes = {name: dtype for name, dtype in dtypes_of(self._base).items() if name in self._names}
        return dtypes | {name: value.dtype for name, value in self._changed.items()}

    def slice(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of one tensor; of one that is in a file, nothing else is read."""
        return self._changed[name][index] if name in self._changed else slice_of(self._base, name, index)
