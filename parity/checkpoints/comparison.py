"""Two files of tensors held against each other by name; no model is needed, and names are as they are in the files.

Tensors are read one after another, large ones in parts, so memory doesn't grow with the files. Bits decide whether two
tensors are equal; how far those are apart that aren't is measured in float64, as everywhere in the project
(`parity.compare`). NaN is equal to NaN in the same place, an infinity to one of the same sign.

Example:
    left, right = open_tensors("before.safetensors"), open_tensors("after.bin")
    for difference in compare_tensors(left, right).differences:
        print(difference.kind, difference.name, difference.relative_l2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..compare import relative, same_bits
from .containers.parts import flat_pieces
from .containers.safetensors_file import Progress
from .containers.stored import Shape, dtypes_of, shapes_of

Kind = Literal["only left", "only right", "misshapen", "other type", "differing", "within tolerance", "equal"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # in the order of reports
EQUAL: tuple[Kind, ...] = ("within tolerance", "equal")

_Sides = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One name in two files.

    Attributes:
        name: The name of the tensor, as it is compared.
        kind: What is the matter. `equal` is bit for bit and of one type; `other type` says nothing of the values.
        shapes: The shapes on the left and on the right; None where there is no such tensor. So are all pairs here.
        dtypes: The types of the elements.
        relative_l2: ||left - right|| / ||right||; infinite if a value is NaN or infinite on one side alone, or if there
            are no two tensors of one shape.
        max_abs: Largest absolute difference; infinite likewise.
        index: Where in the tensor that is; None where nothing differs.
        count: Elements that differ in value.
        nan: Elements that are NaN.
        infinite: Elements that are infinite.
        rounded: Whether the left values, rounded to the type on the right, are the right ones bit for bit, and the
            other way round; of two types of floating-point numbers alone.
    """

    name: str
    kind: Kind
    shapes: tuple[Shape | None, Shape | None]
    dtypes: tuple[str | None, str | None]
    relative_l2: float = math.inf
    max_abs: float = math.inf
    index: tuple[int, ...] | None = None
    count: int = 0
    nan: tuple[int, int] = (0, 0)
    infinite: tuple[int, int] = (0, 0)
    rounded: tuple[bool, bool] = (False, False)

    @property
    def size(self) -> int:
        """Elements of the tensor, on the side that has it."""
        return math.prod(next(shape for shape in self.shapes if shape is not None))

    @property
    def is_measured(self) -> bool:
        """Whether both sides have the tensor in one shape."""
        return self.kind not in ("only left", "only right", "misshapen")

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null stands for a difference without bounds."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "shapes": self.shapes, "dtypes": self.dtypes}
        if self.is_measured:
            for field in ("relative_l2", "max_abs"):
                value = getattr(self, field)
                found[field] = value if math.isfinite(value) else None
            found |= {"index": self.index, "count": self.count, "nan": self.nan, "infinite": self.infinite}
            found["remark"] = remark([self])
        return found


def remark(group: Sequence[TensorDifference]) -> str:
    """What the sizes of differences don't say, such as that one side is the other one rounded; else empty.

    Args:
        group: One difference, or some of one kind, shape and type that are told of together.
    """
    if not group[0].is_measured:
        return ""
    count, size = sum(one.count for one in group), sum(one.size for one in group)
    dtypes, remarks = group[0].dtypes, []
    if dtypes[0] != dtypes[1] and not count:
        remarks.append("same values")
    elif all(one.rounded[0] for one in group):
        remarks.append(f"left one rounded to {dtypes[1]}")
    elif all(one.rounded[1] for one in group):
        remarks.append(f"right one rounded to {dtypes[0]}")
    elif 0 < count < size:
        remarks.append(f"{count:,} of {size:,} elements")
    elif group[0].kind != "equal" and not count:
        remarks.append("signs of zeros or bits of NaN alone")
    pairs: dict[str, list[tuple[int, int]]] = {"NaN": [one.nan for one in group]}
    pairs["infinite"] = [one.infinite for one in group]
    sums = {what: [sum(side) for side in zip(*found, strict=True)] for what, found in pairs.items()}
    remarks += [f"{what}: {left:,} and {right:,}" for what, (left, right) in sums.items() if left or right]
    if any(math.isinf(one.relative_l2) and math.isfinite(one.max_abs) for one in group):
        remarks.append("zeros on the right")
    return "; ".join(remarks)


@dataclass(frozen=True, kw_only=True)
class TensorsComparison:
    """All names of two files.

    Attributes:
        differences: Each name's, by kind as in `KINDS`, then by relative L2 from the largest on, then as on the left.
        tolerance: Relative L2 up to which values count as equal whatever their type; None for bit for bit.
    """

    differences: tuple[TensorDifference, ...]
    tolerance: float | None = None

    @property
    def equal(self) -> bool:
        """Whether both files have the same names, at least one, and every tensor counts as equal."""
        return bool(self.differences) and all(difference.kind in EQUAL for difference in self.differences)

    @property
    def counts(self) -> dict[Kind, int]:
        """Tensors of each kind that there is."""
        found = [difference.kind for difference in self.differences]
        return {kind: found.count(kind) for kind in KINDS if kind in found}

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the verdict, the counts, and every tensor."""
        return {
            "equal": self.equal,
            "tolerance": self.tolerance,
            "counts": self.counts,
            "tensors": [difference.to_dict() for difference in self.differences],
        }


def compare_tensors(
    left: Mapping[str, np.ndarray],
    right: Mapping[str, np.ndarray],
    *,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> TensorsComparison:
    """Holds two mappings of tensors against each other, which may still be in files.

    Args:
        left: The left ones by name.
        right: The right ones by name; relative differences are relative to these.
        tolerance: Relative L2 up to which values count as equal whatever their type; by default bits and types count.
        progress: Called with the bytes that were read and those that will be in all.

    Raises:
        ValueError: The tolerance is no number from 0 on.
        CheckpointError: A tensor can't be read; names the file and the tensor.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance: got {tolerance}, expected a number from 0 on")
    shapes, dtypes = (shapes_of(left), shapes_of(right)), (dtypes_of(left), dtypes_of(right))
    names = [*left, *(name for name in shapes[1] if name not in shapes[0])]
    shared = [name for name in names if name in shapes[0] and shapes[0][name] == shapes[1].get(name)]
    item_bytes = {name: sum(side[name].itemsize for side in dtypes) for name in shared}
    total, done = sum(math.prod(shapes[0][name]) * size for name, size in item_bytes.items()), 0
    found = []
    for name in names:
        distance = _Distance()
        pieces = zip(flat_pieces(left, name), flat_pieces(right, name), strict=True) if name in item_bytes else ()
        for piece in pieces:
            distance.add(piece)
            done += piece[0].size * item_bytes[name]
            if progress is not None:
                progress(done, total)
        both = tuple(side.get(name) for side in shapes), tuple(side.get(name) for side in dtypes)
        found.append(_difference(name, *both, distance, tolerance))
    found.sort(key=lambda difference: (KINDS.index(difference.kind), -difference.relative_l2))
    return TensorsComparison(differences=tuple(found), tolerance=tolerance)


def _difference(name: str, shapes: Any, dtypes: Any, distance: _Distance, tolerance: float | None) -> TensorDifference:
    found: dict[str, Any] = {"name": name, "shapes": shapes}
    found["dtypes"] = tuple(None if dtype is None else dtype.name for dtype in dtypes)
    if None in shapes:
        return TensorDifference(kind="only right" if shapes[0] is None else "only left", **found)
    if shapes[0] != shapes[1]:
        return TensorDifference(kind="misshapen", **found)
    found["relative_l2"] = relative(distance.norm, distance.right_norm)
    kind: Kind = "other type" if dtypes[0] != dtypes[1] else "differing"
    if distance.same_bits and dtypes[0] == dtypes[1]:
        kind = "equal"
    elif tolerance is not None and found["relative_l2"] <= tolerance:
        kind = "within tolerance"
    place: Any = None if distance.place is None else tuple(map(int, np.unravel_index(distance.place, shapes[0])))
    measured: dict[str, Any] = {"max_abs": distance.max_abs, "index": place, "count": distance.count}
    for field in ("nan", "infinite", "rounded"):
        measured[field] = tuple(getattr(distance, field))
    return TensorDifference(kind=kind, **found, **measured)


class _Distance:
    """What is gathered of two tensors of one shape, piece by piece in C order."""

    def __init__(self) -> None:
        self.size = 0
        self.same_bits = True
        self.norm = self.right_norm = self.max_abs = 0.0
        self.place: int | None = None
        self.count = 0
        self.nan, self.infinite = [0, 0], [0, 0]
        self.rounded = [True, True]  # until a piece shows otherwise

    def add(self, piece: _Sides) -> None:
        """Takes the next piece of both."""
        # Overflow and NaN are what is looked for, and no reason for a warning.
        with np.errstate(all="ignore"):
            same = same_bits(*piece)
            right = _wide(piece[1])
            wide = right if same else _wide(piece[0]), right
            self._count_non_finite(wide)
            self.right_norm = math.hypot(self.right_norm, _norm(np.abs(right)))
            self._add_rounded(piece, wide)
            if not same:
                self.same_bits = False
                self._add_apart(_apart(piece, wide))
        self.size += piece[0].size

    def _count_non_finite(self, wide: _Sides) -> None:
        for side, values in enumerate(wide):
            if not np.isfinite(values).all():
                self.nan[side] += int(np.count_nonzero(np.isnan(values)))
                self.infinite[side] += int(np.count_nonzero(np.isinf(values)))

    def _add_apart(self, apart: np.ndarray) -> None:
        largest = float(apart.max())
        if largest > self.max_abs:
            self.max_abs, self.place = largest, self.size + int(apart.argmax())
        self.count += int(np.count_nonzero(apart))
        self.norm = math.hypot(self.norm, _norm(apart) if largest < math.inf else largest)

    def _add_rounded(self, piece: _Sides, wide: _Sides) -> None:
        # NumPy counts its own types alone as floating; bfloat16 and float8 are of `ml_dtypes`.
        are_floats = piece[0].dtype != piece[1].dtype and all("float" in side.dtype.name for side in piece)
        for side in (0, 1):
            other = piece[1 - side]
            if self.rounded[side]:
                self.rounded[side] = are_floats and same_bits(wide[side].astype(other.dtype), other)


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _apart(piece: _Sides, wide: _Sides) -> np.ndarray:
    """Absolute differences of elements; 0 for the same NaN or infinity, infinite where one side alone has it."""
    left, right = piece
    if left.dtype.kind == right.dtype.kind and left.dtype.kind in "iu":
        # In float64 neighbours above 2**53 are equal; modulo 2**64 the distance is exact.
        high, low = (bound.astype(np.uint64) for bound in (np.maximum(left, right), np.minimum(left, right)))
        return (high - low).astype(np.float64)
    apart = np.abs(wide[0] - wide[1])
    if not np.isfinite(apart).all():
        apart[(wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))] = 0
        apart[np.isnan(apart)] = math.inf
    return apart


def _norm(sizes: np.ndarray) -> float:
    """The L2 norm of absolute values that are finite; their squares may be too large or too small for a float64."""
    if not math.isfinite(largest := float(sizes.max())):
        sizes = sizes[np.isfinite(sizes)]
        largest = float(sizes.max(initial=0.0))
    return largest * float(np.linalg.norm(sizes / largest)) if largest else 0.0
