"""Rotary position embeddings (RoPE): their settings and the angles of a grid, in float64 for both frameworks.

Sources: Su et al. 2021, arXiv:2104.09864; over two axes in EVA-02 (Fang et al. 2023, arXiv:2303.11331) and DINOv3
(Siméoni et al. 2025, arXiv:2508.10104); learned and mixed over the axes in Heo et al. 2024, arXiv:2403.13298.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np

RopeKind = Literal["axial", "centered", "mixed"]
Indexing = Literal["ij", "xy"]


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How query and key are rotated by the position of their patch; prefix tokens are not.

    Attributes:
        kind: `axial` counts patches and has frequencies temperature^(-i / n) (EVA-02); `centered` takes the centres of
            patches in [-1, 1] over periods temperature^(i / n) (DINOv3); `mixed` has learned frequencies for every
            block and head, over both axes at once.
        temperature: Base of the frequencies or periods; for `mixed`, of their start values.
        offset: Added to each position, in patches.
        indexing: Which coordinate comes first: rows (`ij`) or columns (`xy`).
        reference_grid: Patches down and across that positions are scaled to; None for no scaling.
        rotate_half: Pairs are channels i and i + n / 2, not neighbours.
        rescale: In training, coordinates are multiplied by a factor drawn log-uniformly from [1 / rescale, rescale];
            None for no augmentation.
    """

    kind: RopeKind = "axial"
    temperature: float = 10_000.0
    offset: float = 0.0
    indexing: Indexing = "ij"
    reference_grid: tuple[int, int] | None = None
    rotate_half: bool = False
    rescale: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for a value that can't be used."""
        for name, choices in (("kind", get_args(RopeKind)), ("indexing", get_args(Indexing))):
            if getattr(self, name) not in choices:
                raise ValueError(f"rope.{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if not self.temperature > 0:
            raise ValueError(f"rope.temperature: got {self.temperature}, expected a value above 0")
        if self.rescale is not None and not self.rescale >= 1:
            raise ValueError(f"rope.rescale: got {self.rescale}, expected 1 or more, or none")
        grid = self.reference_grid
        if grid is not None and not (len(grid) == 2 and all(isinstance(side, int) and side >= 1 for side in grid)):
            raise ValueError(f"rope.reference_grid: got {grid}, expected positive patches down and across, or none")


@functools.cache
def coordinates(rope: Rope, grid_size: tuple[int, int]) -> np.ndarray:
    """Both coordinates of each patch, in the order of `indexing`.

    Returns:
        float64 (n, 2), rows of the grid one after another. Read-only, since it is cached.
    """
    import numpy as np

    axes = []
    for axis, size in enumerate(grid_size):
        t = np.arange(size) + rope.offset
        if rope.kind == "centered":
            t = 2 * (t + 0.5) / size - 1
        elif rope.reference_grid is not None:
            t = t / size * rope.reference_grid[axis]
        axes.append(t)
    rows, columns = np.meshgrid(*axes, indexing="ij")
    pair = (columns, rows) if rope.indexing == "xy" else (rows, columns)
    table = np.stack([t.reshape(-1) for t in pair], axis=1)
    table.setflags(write=False)
    return table


@functools.cache
def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians for each unit of a coordinate, where they aren't learned.

    Returns:
        float64 (head_dim / 4,). Read-only, since it is cached.
    """
    import numpy as np

    steps = np.arange(head_dim // 4) / (head_dim // 4)
    table = rope.temperature**-steps * (2 * math.pi if rope.kind == "centered" else 1)
    table.setflags(write=False)
    return table
