"""Differences of two trees of arrays (mappings from names to arrays), measured in float64. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two arrays of one name are apart.

    Attributes:
        name: The name of the arrays.
        left_shape: Shape of the array on the left.
        right_shape: Shape of the array on the right; the other fields are infinite if it is another.
        relative_l2: ||left - right|| / ||right||, infinite if a value on either side isn't finite.
        max_abs: Largest absolute difference, infinite likewise.
        non_finite: Values that are not finite, on the left and on the right.
        scale: What `relative_l2` is relative to instead, where that is more than ||right||; else 0.
    """

    name: str
    left_shape: Shape
    right_shape: Shape
    relative_l2: float
    max_abs: float
    non_finite: tuple[int, int] = (0, 0)
    scale: float = 0.0

    @property
    def remark(self) -> str:
        """What the numbers don't say: other shapes, values that aren't finite, another scale; else empty."""
        if self.left_shape != self.right_shape:
            return f"shapes {list(self.left_shape)} and {list(self.right_shape)}"
        left, right = self.non_finite
        if left or right:
            return f"{left} and {right} values are not finite"
        return f"relative to {self.scale:.1e}, the scale of the weight beside it" if self.scale else ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two trees held against each other.

    Attributes:
        differences: The differences of the names on both sides, in the order of the left tree.
        only_left: Names that the right tree lacks.
        only_right: Names that the left tree lacks.
    """

    differences: tuple[Difference, ...]
    only_left: tuple[str, ...] = ()
    only_right: tuple[str, ...] = ()

    @property
    def worst(self) -> Difference | None:
        """The largest relative L2; None if the trees share no name."""
        return max(self.differences, key=lambda difference: difference.relative_l2, default=None)

    def first_beyond(self, tolerance: float) -> Difference | None:
        """The first difference above a relative L2, in the order of the tree; None if there is none."""
        return next((difference for difference in self.differences if not difference.relative_l2 <= tolerance), None)

    def ok(self, tolerance: float) -> bool:
        """Whether both trees have the same names, at least one, and nothing is above a relative L2."""
        complete = bool(self.differences) and not self.only_left and not self.only_right
        return complete and self.first_beyond(tolerance) is None

    def table(self, title: str = "", *, tolerance: float | None = None) -> Table:
        """A rich table, a row for each name; rows above the tolerance are red."""
        from rich.table import Table

        table = Table("name", "shape", "relative L2", "max abs", "remark", title=title or None, title_justify="left")
        for row, difference in zip(self._rows(), self.differences, strict=False):
            beyond = tolerance is not None and not difference.relative_l2 <= tolerance
            table.add_row(*row, style="red" if beyond else None)
        for row in self._rows()[len(self.differences) :]:
            table.add_row(*row, style="red")
        return table

    def markdown(self) -> str:
        """A Markdown table, a row for each name."""
        header = "| name | shape | relative L2 | max abs | remark |\n|---|---|---|---|---|"
        return "\n".join([header, *("| " + " | ".join(row) + " |" for row in self._rows())])

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        rows = [
            (d.name, "x".join(map(str, d.left_shape)), f"{d.relative_l2:.1e}", f"{d.max_abs:.1e}", d.remark)
            for d in self.differences
        ]
        rows += [(name, "", "", "", "only left") for name in self.only_left]
        return rows + [(name, "", "", "", "only right") for name in self.only_right]


def difference(name: str, left: np.ndarray, right: np.ndarray, *, scale: float = 0.0) -> Difference:
    """Compares two arrays of any type of number; both are taken to float64 first.

    Args:
        name: The name of the arrays.
        left: Any arrays.
        right: Any; the relative difference is relative to its norm,
        scale: or to this, if that is more.
    """
    left, right = np.asarray(left).astype(np.float64), np.asarray(right).astype(np.float64)
    non_finite = (_count_non_finite(left), _count_non_finite(right))
    if left.shape != right.shape or any(non_finite):
        return Difference(
            name=name,
            left_shape=left.shape,
            right_shape=right.shape,
            relative_l2=math.inf,
            max_abs=math.inf,
            non_finite=non_finite,
        )
    apart = left - right
    distance, norm = float(np.linalg.norm(apart)), float(np.linalg.norm(right))
    return Difference(
        name=name,
        relative_l2=relative(distance, max(norm, scale)),
        max_abs=float(np.abs(apart).max(initial=0.0)),
        scale=scale if scale > norm else 0.0,
        left_shape=left.shape,
        right_shape=right.shape,
    )


def compare(
    left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], scales: Mapping[str, float] | None = None
) -> Comparison:
    """Compares two trees name by name.

    Args:
        left: The left ones by name.
        right: The right ones by name; relative differences are relative to these,
        scales: or to these, where they are more, such as `layer_scales(right)`.
    """
    scales = scales or {}
    return Comparison(
        differences=tuple(
            difference(name, left[name], right[name], scale=scales.get(name, 0.0)) for name in left if name in right
        ),
        only_left=tuple(name for name in left if name not in right),
        only_right=tuple(name for name in right if name not in left),
    )


def layer_scales(tree: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What the norm of a bias would be if its elements were as large as those of the weight beside it.

    Of gradients that is the scale of rounding errors, too: with d the gradient of a layer's output at each token and x
    its input, of order one, the weight's gradient is the sum of d x over the tokens, the bias's that of d. Where
    softmax ignores a bias, as that of a key, that sum is zero, and its rounding error is relative to the d.

    The lambdas of differential attention are taken likewise, by the norm beside them: their gradients are one sum over
    all tokens and channels, whose terms have either sign and may cancel by chance, times a vector.
    """
    scales = {}
    for name, value in tree.items():
        layer, _, kind = name.rpartition(".")
        beside = "sub_norm.weight" if kind.startswith("lambda_") else "weight" if kind == "bias" else None
        weight = tree.get(f"{layer}.{beside}") if beside else None
        if weight is not None:
            weight = np.asarray(weight).astype(np.float64)
            scales[name] = float(np.sqrt(np.mean(weight**2) * value.size))
    return scales


# Powers of ten that `magnitudes` counts by; what is less counts as the least.
DECADES = range(-20, 2)


def magnitudes(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Elements of two trees by the power of ten of their difference, relative to the root mean square of their array.

    Names that one side lacks, other shapes and values that aren't finite are left out: `compare` reports them.
    """
    counts = np.zeros(len(DECADES), np.int64)
    for name in left:
        if name not in right or left[name].shape != right[name].shape:
            continue
        one, other = (np.asarray(tree[name]).astype(np.float64) for tree in (left, right))
        scale = float(np.sqrt(np.mean(other**2))) if other.size else 0.0
        if scale and np.isfinite(scale):
            apart = np.abs(one - other).ravel() / scale
            apart = apart[np.isfinite(apart)]
            powers = np.floor(np.log10(np.maximum(apart, 10.0 ** DECADES[0]))).astype(int)
            counts += np.bincount(np.clip(powers, DECADES[0], DECADES[-1]) - DECADES[0], minlength=len(DECADES))
    return tuple(counts.tolist())


def not_identical(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Names whose arrays aren't equal bit for bit in the same type and shape, or that one side lacks."""
    shared = [name for name in left if name in right]
    unequal = [name for name in shared if not same_bits(left[name], right[name])]
    return (*unequal, *(name for name in left if name not in right), *(name for name in right if name not in left))


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two arrays are of one type and shape and equal bit for bit: NaN equals itself, -0.0 differs from 0.0."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return bool(np.array_equal(_bytes_of(left), _bytes_of(right)))


def relative(distance: float, scale: float) -> float:
    """A distance relative to a scale; against zeros no distance is relative: equal is 0, all else infinitely far."""
    return distance / scale if scale else (math.inf if distance else 0.0)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _count_non_finite(array: np.ndarray) -> int:
    return int(array.size - np.count_nonzero(np.isfinite(array)))
