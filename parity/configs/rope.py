"""Rotary position embeddings (RoPE): their settings and the angles of a grid, in float64 for both frameworks.

Sources: Su et al. 2021, arXiv:2104.09864; over two axes in EVA-02 (Fang et al. 2023, arXiv:2303.11331) and DINOv3
(Siméoni et al. 2025, arXiv:2508.10104); learned and mixed over the axes in Heo et al. 2024, arXiv:2403.13298.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .fields import check_fields

if TYPE_CHECKING:
    import numpy as np

RopeKind = Literal["axial", "centered", "mixed"]
Indexing = Literal["ij", "xy"]
NormalizeCoords = Literal["separate", "min", "max"]


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How query and key are rotated by the position of their patch; prefix tokens are not.

    Attributes:
        kind: `axial` counts patches and has frequencies temperature^(-i / n) (EVA-02); `centered` takes the centres of
            patches in [-1, 1] over periods temperature^(i / n) (DINOv3); `mixed` has learned frequencies for every
            block and head, over both axes at once.
        temperature: Base of the frequencies or periods; for `mixed`, of their start values.
        min_period: Shortest period of `centered`, in half images; with `max_period` it takes the temperature's place,
            and periods rise geometrically from one to the other.
        max_period: Longest period.
        normalize_coords: What `centered` divides the centres by: the patches of the axis itself (`separate`), or of
            the shorter (`min`) or longer (`max`) side for both axes.
        offset: What is added to each position, in patches.
        indexing: Which coordinate comes first: rows (`ij`) or columns (`xy`).
        reference_grid: Patches down and across that positions are scaled to; None for no scaling.
        rotate_half: Pairs are channels i and i + n / 2, not neighbours.
        rescale: Training multiplies coordinates by a factor drawn log-uniformly from [1 / rescale, rescale];
            None for no augmentation.
    """

    kind: RopeKind = "axial"
    temperature: float = 10_000.0
    min_period: float | None = None
    max_period: float | None = None
    normalize_coords: NormalizeCoords = "separate"
    offset: float = 0.0
    indexing: Indexing = "ij"
    reference_grid: tuple[int, int] | None = None
    rotate_half: bool = False
    rescale: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for a value that can't be used."""
        check_fields(self, prefix="rope.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"rope.temperature: got {self.temperature}, expected a value above 0")
        self._check_centered()
        if self.rescale is not None and not self.rescale >= 1:
            raise ValueError(f"rope.rescale: got {self.rescale}, expected 1 or more, or none")
        grid = self.reference_grid
        if grid is not None and not (len(grid) == 2 and all(isinstance(side, int) and side >= 1 for side in grid)):
            raise ValueError(f"rope.reference_grid: got {grid}, expected positive patches down and across, or none")

    def _check_centered(self) -> None:
        """The fields that DINOv3's coordinates alone have."""
        periods = (self.min_period, self.max_period)
        for name, value in zip(("min_period", "max_period"), periods, strict=True):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"rope.{name}: got {value}, expected a value above 0, or none")
        if (self.min_period is None) != (self.max_period is None):
            missing = "min_period" if self.min_period is None else "max_period"
            raise ValueError(f"rope.{missing}: got None, expected both min_period and max_period, or neither")
        for name, default in (("min_period", None), ("normalize_coords", "separate")):
            value = getattr(self, name)
            if self.kind != "centered" and value != default:
                raise ValueError(f"rope.{name}: got {value!r}, expected {default!r} with kind {self.kind!r}")


@functools.cache
def coordinates(
    grid_size: tuple[int, int],
    *,
    offset: float = 0.0,
    indexing: Indexing = "ij",
    reference_grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """Both coordinates of each patch, counted in patches: those of the kinds `axial` and `mixed`.

    Args:
        grid_size: Patches down and across.
        offset: The same as in `Rope`.
        indexing: The same as in `Rope`.
        reference_grid: The same as in `Rope`.

    Returns:
        float64 (n, 2), rows of the grid one after another. Read-only, since it is cached.
    """
    import numpy as np

    axes = [np.arange(size) + offset for size in grid_size]
    if reference_grid is not None:
        axes = [t / size * to for t, size, to in zip(axes, grid_size, reference_grid, strict=True)]
    return _pairs(axes, indexing)


@functools.cache
def centered_coordinates(
    grid_size: tuple[int, int],
    *,
    offset: float = 0.0,
    indexing: Indexing = "ij",
    normalize_coords: NormalizeCoords = "separate",
) -> np.ndarray:
    """Both coordinates of each patch's centre, in [-1, 1] over the image: those of the kind `centered`.

    Args:
        grid_size: Patches down and across.
        offset: The same as in `Rope`.
        indexing: The same as in `Rope`.
        normalize_coords: The same as in `Rope`.

    Returns:
        float64 (n, 2), rows of the grid one after another. Read-only, since it is cached.
    """
    import numpy as np

    sides = {"separate": grid_size, "min": (min(grid_size),) * 2, "max": (max(grid_size),) * 2}[normalize_coords]
    axes = [2 * (np.arange(size) + offset + 0.5) / side - 1 for size, side in zip(grid_size, sides, strict=True)]
    return _pairs(axes, indexing)


@functools.cache
def frequencies(head_dim: int, *, temperature: float = 10_000.0) -> np.ndarray:
    """Radians for each patch, temperature^(-i / n): those of `axial`, and what those of `mixed` start from.

    Args:
        head_dim: The width of one head.
        temperature: The same as in `Rope`.

    Returns:
        float64 (head_dim / 4,). Read-only, since it is cached.
    """
    import numpy as np

    num = head_dim // 4
    return _read_only(temperature ** -(np.arange(num) / num))


@functools.cache
def centered_frequencies(
    head_dim: int, *, temperature: float = 10_000.0, min_period: float | None = None, max_period: float | None = None
) -> np.ndarray:
    """Radians for each half image, of `centered`: periods from temperature, or from the shortest to the longest.

    Args:
        head_dim: The width of one head.
        temperature: The same as in `Rope`.
        min_period: The same as in `Rope`.
        max_period: The same as in `Rope`.

    Returns:
        float64 (head_dim / 4,). Read-only, since it is cached.
    """
    import numpy as np

    num = head_dim // 4
    if min_period is not None and max_period is not None:
        return _read_only(2 * math.pi / (min_period * (max_period / min_period) ** np.linspace(0, 1, num)))
    return _read_only(temperature ** -(np.arange(num) / num) * (2 * math.pi))


def mixed_frequencies(magnitude: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The first frequencies of RoPE-Mixed: two orthogonal directions for each block and head, (2, depth, nh, hd / 2).

    Args:
        magnitude: The frequencies of one axis, (hd / 4,).
        turn: The angle of the first direction, (depth, nh).
    """
    import numpy as np

    angles = np.stack([turn, turn + math.pi / 2], axis=-1)[..., None]
    parts = [magnitude * along(angles) for along in (np.cos, np.sin)]
    return np.stack([part.reshape(*turn.shape, -1) for part in parts])


def _pairs(axes: Sequence[np.ndarray], indexing: Indexing) -> np.ndarray:
    """Coordinates of each place of a grid, from those along either axis."""
    import numpy as np

    rows, columns = np.meshgrid(*axes, indexing="ij")
    pair = (columns, rows) if indexing == "xy" else (rows, columns)
    return _read_only(np.stack([t.reshape(-1) for t in pair], axis=1))


def _read_only(table: np.ndarray) -> np.ndarray:
    table.setflags(write=False)
    return table
