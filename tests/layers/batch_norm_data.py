"""What the workers of BatchNorm are given: the same values in every process, in NumPy alone."""

from __future__ import annotations

import numpy as np

CHANNELS, DIM, DEPTH = 3, 8, 2
ROWS, HEIGHT, WIDTH = 16, 5, 4
STEPS = 2

Arrays = dict[str, np.ndarray]


def images() -> np.ndarray:
    """Float64 images (steps, b, h, w, c), whose rows differ in mean and size, so that no part is like the whole."""
    values = np.random.default_rng(0).normal(size=(STEPS, ROWS, HEIGHT, WIDTH, CHANNELS))
    rows = np.linspace(0.2, 2, ROWS)[:, None, None, None]
    return values * rows + rows


def cotangents() -> np.ndarray:
    """What the outputs (b, d) are multiplied with, of which the loss is the sum."""
    return np.random.default_rng(1).normal(size=(ROWS, DIM))


def tensors(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """A float64 value for each name in alphabetical order, variances positive."""
    rng = np.random.default_rng(2)
    values = {name: rng.normal(size=shape) for name, shape in sorted(shapes.items())}
    return {name: np.abs(value) + 0.5 if name.endswith("running_var") else value for name, value in values.items()}
