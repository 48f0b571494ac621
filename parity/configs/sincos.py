"""The fixed 2-D sin-cos position table, in float64, so that both frameworks add the same numbers."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@functools.cache
def sincos2d(grid_size: tuple[int, int], embed_dim: int, *, big_vision: bool = False) -> np.ndarray:
    """Sine and cosine of the column, then of the row, at `embed_dim / 4` frequencies each.

    Args:
        grid_size: Patches down and across.
        embed_dim: Width of the tokens; a multiple of 4.
        big_vision: Frequencies reach down to 1/10000 itself, as in big_vision; MoCo v3 and MAE stop one step before.

    Returns:
        float64 (n, d), rows of the grid one after another. Read-only, since it is cached.
    """
    import numpy as np

    steps = embed_dim // 4
    omega = 10_000.0 ** -(np.arange(steps) / (steps - 1 if big_vision else steps))
    row, column = np.mgrid[: grid_size[0], : grid_size[1]].reshape(2, -1, 1) * omega
    table = np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=1)
    table.setflags(write=False)
    return table
