"""Which entry of BEiT's table biases the attention of one token to another."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@functools.cache
def relative_position_index(grid_size: tuple[int, int]) -> np.ndarray:
    """Rows of the table, for a class token and the patches of a grid (Bao et al. 2021, arXiv:2106.08254).

    The table has a row for each difference of two patches, then one each for class token to patch, patch to class
    token, and class token to itself.

    Args:
        grid_size: Patches down and across.

    Returns:
        int (1 + n, 1 + n): by querying token, by attended token. Read-only, since it is cached.
    """
    import numpy as np

    height, width = grid_size
    row, column = np.mgrid[:height, :width].reshape(2, -1)
    down = row[:, None] - row[None] + height - 1
    across = column[:, None] - column[None] + width - 1
    differences = (2 * height - 1) * (2 * width - 1)
    index = np.empty((1 + height * width,) * 2, dtype=np.int32)
    index[1:, 1:] = down * (2 * width - 1) + across
    index[0, :], index[:, 0], index[0, 0] = differences, differences + 1, differences + 2
    index.setflags(write=False)
    return index
