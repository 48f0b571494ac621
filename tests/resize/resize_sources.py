"""What the sources of weights call to resize a grid, kernel by kernel."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F

OFFSET = 0.1


def torch_resize(grid: np.ndarray, new: tuple[int, int], kernel: str) -> np.ndarray:
    """Of a grid (h, w, c), in its precision."""
    options = {
        "bicubic_antialias": dict(mode="bicubic", antialias=True),
        "bilinear_antialias": dict(mode="bilinear", antialias=True),
        "bicubic": dict(mode="bicubic"),
        "bilinear": dict(mode="bilinear"),
        "bicubic_align_corners": dict(mode="bicubic", align_corners=True),
        "bicubic_offset": dict(mode="bicubic"),
    }[kernel]
    if kernel == "bicubic_offset":
        size = dict(scale_factor=tuple((side + OFFSET) / old for side, old in zip(new, grid.shape, strict=False)))
    else:
        size = dict(size=new)
    source = torch.from_numpy(grid).permute(2, 0, 1)[None]
    return F.interpolate(source, **size, **options)[0].permute(1, 2, 0).numpy()


def scipy_resize(grid: np.ndarray, new: tuple[int, int], mode: str = "constant") -> np.ndarray:
    factors = (new[0] / grid.shape[0], new[1] / grid.shape[1], 1)
    return scipy.ndimage.zoom(grid, factors, order=1, mode=mode)


def overshoots(old: int, new: int) -> bool:
    """Whether SciPy's own rounding puts the last sample beyond the last point, where it returns 0."""
    return new > 1 and (new - 1) * ((old - 1) / (new - 1)) > old - 1


def source(grid: np.ndarray, new: tuple[int, int], kernel: str) -> np.ndarray:
    """That of a kernel by its name in the config."""
    return scipy_resize(grid, new) if kernel == "zoom" else torch_resize(grid, new, kernel)
