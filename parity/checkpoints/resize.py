"""Resizing of position grids and patch kernels, in float64 and without a framework: both models get the same numbers.

A separable resize is a matrix for the rows and one for the columns. Each source of weights has a kernel of its own, and
the same grid resized by another one is another model:

- `bicubic_antialias`: timm, open_clip, DINOv2 with registers. Keys' kernel with a = -0.5, as in Pillow.
- `bilinear_antialias`: SigLIP 2, TIPS.
- `bicubic`: Hugging Face's ViT, DINOv2 and most others, Meta's DeiT and MAE. a = -0.75, no antialias.
- `bilinear`: without antialias; BEiT's tables at Hugging Face.
- `bicubic_align_corners`: torchvision; the corners of both grids coincide.
- `zoom`: Google's ViT, `scipy.ndimage.zoom(order=1)`; bilinear, and the corners coincide.
- `bicubic_offset`: Meta's DINOv2. `bicubic`, with coordinates from the scale (new + 0.1) / old, not from the sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

Profile = Callable[[np.ndarray], np.ndarray]

# What Meta's DINOv2 adds to the new size before it divides by the old one.
_OFFSET = 0.1


def _cubic(a: float) -> Profile:
    """Keys' cubic convolution kernel."""

    def profile(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return profile


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


def _antialias(old: int, new: int, *, profile: Profile) -> np.ndarray:
    """Weights of a kernel that widens as the grid shrinks, and of nothing beyond the edges."""
    scale = old / new
    center = (np.arange(new) + 0.5) * scale
    distance = np.arange(old)[None] + 0.5 - center[:, None]
    weights = profile(distance / max(scale, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _interpolate(old: int, new: int, *, profile: Profile, coordinates: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Weights of the samples around each coordinate; those beyond the edges are the edge's."""
    position = coordinates(old, new)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        neighbour = np.floor(position) + tap
        index = np.clip(neighbour, 0, old - 1).astype(int)
        weights[np.arange(new), index] += profile(position - neighbour)
    return weights


def _half_pixel(old: int, new: int, offset: float = 0.0) -> np.ndarray:
    scale = 1 / ((new + offset) / old) if offset else old / new
    return scale * (np.arange(new) + 0.5) - 0.5


def _align_corners(old: int, new: int) -> np.ndarray:
    return np.arange(new) * ((old - 1) / max(new - 1, 1))


# The names of the config's `pos_embed_resize` and `patch_resize`.
KERNELS: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic_antialias": partial(_antialias, profile=_cubic(-0.5)),
    "bilinear_antialias": partial(_antialias, profile=_triangle),
    "bicubic": partial(_interpolate, profile=_cubic(-0.75), coordinates=_half_pixel),
    "bilinear": partial(_interpolate, profile=_triangle, coordinates=_half_pixel),
    "bicubic_align_corners": partial(_interpolate, profile=_cubic(-0.75), coordinates=_align_corners),
    "zoom": partial(_interpolate, profile=_triangle, coordinates=_align_corners),
    "bicubic_offset": partial(_interpolate, profile=_cubic(-0.75), coordinates=partial(_half_pixel, offset=_OFFSET)),
}


def resize_matrix(old: int, new: int, kernel: str) -> np.ndarray:
    """The weights (new, old) by which `new` samples are made of `old` ones; each row adds up to 1.

    Args:
        old: Number of samples that there are.
        new: Number of samples to make.
        kernel: A name in `KERNELS`.
    """
    return KERNELS[kernel](old, new)


def resize_grid(grid: np.ndarray, new_size: tuple[int, int], kernel: str) -> np.ndarray:
    """Resizes a grid (h, w, c) to another (h, w); computed in float64, returned in float64."""
    rows = resize_matrix(grid.shape[0], new_size[0], kernel)
    columns = resize_matrix(grid.shape[1], new_size[1], kernel)
    return np.einsum("ih,hwc,jw->ijc", rows, grid.astype(np.float64), columns, optimize=True)


def resize_patch_kernel(kernel: np.ndarray, new_size: tuple[int, int], resize: str) -> np.ndarray:
    """Resizes a patch embedding so that resized patches give, as nearly as they can, the embeddings they gave before.

    The resize of a patch is a matrix; its transpose's pseudo-inverse takes the kernel along (FlexiViT, Beyer et al.
    2022, equation 2).

    Args:
        kernel: (d, c, h, w).
        new_size: Height and width of the new patches.
        resize: How patches are thought to be resized, a name in `KERNELS`: big_vision has `bilinear`, timm
            `bicubic_antialias`.

    Returns:
        (d, c, *new_size) in float64.
    """
    rows, columns = (
        np.linalg.pinv(resize_matrix(old, new, resize).T) for old, new in zip(kernel.shape[2:], new_size, strict=True)
    )
    return np.einsum("ih,dchw,jw->dcij", rows, kernel.astype(np.float64), columns, optimize=True)


def _geometric(old: int, new: int) -> np.ndarray:
    """Weights that keep the old distances dense in the middle and spread them out to reach the new ones.

    Distances 1, 1 + q, 1 + q + q^2, ... with the q whose last one is the largest new distance; linear in between. The
    bisection is part of the numerics: it stops when q is known to 1e-6.
    """
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    reached = np.cumsum([1.0, *(ratio ** (i + 1) for i in range(old // 2 - 1))])[: old // 2]
    positions = np.concatenate([-reached[::-1], [0.0], reached])
    wanted = np.arange(new) - new // 2
    return np.stack([np.interp(wanted, positions, unit) for unit in np.eye(old)], axis=1)


# The names of the config's `rel_pos_resize`: what BEiT's tables are resized by in timm and at Hugging Face.
REL_POS_KERNELS: dict[str, Callable[[int, int], np.ndarray]] = {
    "geometric": _geometric,
    "bilinear": KERNELS["bilinear"],
    "bicubic": KERNELS["bicubic"],
}


def resize_rel_pos_table(
    table: np.ndarray, old_grid: tuple[int, int], new_grid: tuple[int, int], kernel: str
) -> np.ndarray:
    """Resizes BEiT's table of attention biases by distance.

    Args:
        table: ((2 h - 1) (2 w - 1) + k, nh); the last k rows are the class token's and stay.
        old_grid: (h, w), patches down and across.
        new_grid: The same, of the result.
        kernel: A name in `REL_POS_KERNELS`.

    Returns:
        The table of the new grid, in float64.
    """
    old_size, new_size = ([2 * side - 1 for side in grid] for grid in (old_grid, new_grid))
    rows, columns = (REL_POS_KERNELS[kernel](old, new) for old, new in zip(old_size, new_size, strict=True))
    table = table.astype(np.float64)
    distances = old_size[0] * old_size[1]
    resized = np.einsum("ih,hwn,jw->ijn", rows, table[:distances].reshape(*old_size, -1), columns, optimize=True)
    return np.concatenate([resized.reshape(-1, table.shape[-1]), table[distances:]])
