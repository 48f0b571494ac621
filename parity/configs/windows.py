"""Windows of a map: where they lie, which of their tokens may not see each other, and how far apart tokens are."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def fitted(
    grid_size: tuple[int, int], window_size: tuple[int, int], shifted: bool, fit: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The window and the shift of a block whose map may be smaller than the window.

    Args:
        grid_size: The size of the map.
        window_size: The size of the window that was asked for.
        shifted: Whether the block's windows are moved by half of their size.
        fit: What is done about small maps, as in `SwinConfig.window_fit`.

    Returns:
        The size of the window, and by how much it is moved down and across.
    """
    height, width = window_size
    shift = (height // 2, width // 2) if shifted else (0, 0)
    if fit == "pad":
        # The window stays; where it covers the padded map, there is nothing to move.
        covers = [math.ceil(side / window) == 1 for side, window in zip(grid_size, window_size, strict=True)]
        return window_size, (0 if covers[0] else shift[0], 0 if covers[1] else shift[1])
    if fit in ("shrink_both", "shrink_height"):
        side = min(grid_size) if fit == "shrink_both" else grid_size[0]
        return ((side, side), (0, 0)) if side <= min(window_size) else (window_size, shift)
    fits = [side <= window for side, window in zip(grid_size, window_size, strict=True)]
    window = (grid_size[0] if fits[0] else height, grid_size[1] if fits[1] else width)
    return window, (0 if fits[0] else shift[0], 0 if fits[1] else shift[1])


def padded(grid_size: tuple[int, int], window_size: tuple[int, int]) -> tuple[int, int]:
    """The size of a map that whole windows cover."""
    height, width = (math.ceil(side / window) * window for side, window in zip(grid_size, window_size, strict=True))
    return height, width


@functools.cache
def shift_bias(
    grid_size: tuple[int, int], window_size: tuple[int, int], shift: tuple[int, int], apart: float
) -> np.ndarray:
    """What a shift adds to the scores: `apart` for two tokens that were not side by side before it, and else 0.

    Liu et al. 2021, arXiv:2103.14030, figure 4.

    Args:
        grid_size: The size of the padded map.
        window_size: The size of a window, which divides it.
        shift: By how much the map was moved up and to the left.
        apart: A negative number.

    Returns:
        float32 (windows, n, n): windows row by row, then two tokens of one. Read-only, since it is cached.
    """
    import numpy as np

    axes = []
    for side, window, moved in zip(grid_size, window_size, shift, strict=True):
        place = np.arange(side)
        axes.append((place >= side - window).astype(int) + (place >= side - moved) if moved else np.zeros(side, int))
    region = 3 * axes[0][:, None] + axes[1][None]
    (height, width), (down, across) = window_size, (grid_size[0] // window_size[0], grid_size[1] // window_size[1])
    region = region.reshape(down, height, across, width).transpose(0, 2, 1, 3).reshape(down * across, -1)
    bias = np.where(region[:, :, None] == region[:, None], 0.0, apart).astype(np.float32)
    bias.setflags(write=False)
    return bias


@functools.cache
def log_distances(window_size: tuple[int, int], trained_window: int) -> np.ndarray:
    """The relative positions of two tokens of a window, in Swin V2's logarithmic distances.

    sign(8 r) log2(|8 r| + 1) / log2(8), of distances r in parts of the greatest one of the window that the weights were
    trained with (Liu et al. 2022, arXiv:2111.09883, eq. 4, and the factor 8 of its code).

    Args:
        window_size: The size of the window.
        trained_window: The side of the window that the weights were trained with; 0 for the same.

    Returns:
        float64 ((2 h - 1) (2 w - 1), 2), in the order of a table of relative positions. Read-only.
    """
    import numpy as np

    axes = []
    for side in window_size:
        greatest = max((trained_window or side) - 1, 1)
        axes.append(8 * np.arange(-(side - 1), side) / greatest)
    distances = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    distances = np.sign(distances) * np.log2(np.abs(distances) + 1) / math.log2(8)
    distances.setflags(write=False)
    return distances
