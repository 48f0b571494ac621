"""Resizing of position grids, in float64 and without a framework, so that both models get the same numbers.

A separable resize is a matrix for the rows and one for the columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, which is Pillow's and that of PyTorch's antialiased resize."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bicubic_antialias": _cubic,
    "bilinear_antialias": _triangle,
}


def resize_matrix(old: int, new: int, kernel: str) -> np.ndarray:
    """The weights (new, old) by which `new` samples are made of `old` ones; each row adds up to 1."""
    scale = old / new
    center = (np.arange(new) + 0.5) * scale
    distance = np.arange(old)[None] + 0.5 - center[:, None]
    weights = KERNELS[kernel](distance / max(scale, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def resize_grid(grid: np.ndarray, new_size: tuple[int, int], kernel: str) -> np.ndarray:
    """Resizes a grid (h, w, c) to another (h, w); computed in float64, returned in float64."""
    rows = resize_matrix(grid.shape[0], new_size[0], kernel)
    columns = resize_matrix(grid.shape[1], new_size[1], kernel)
    return np.einsum("ih,hwc,jw->ijc", rows, grid.astype(np.float64), columns, optimize=True)
