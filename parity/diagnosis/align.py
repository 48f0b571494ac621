"""Which intermediates of two models belong together: by name, else by order, size and values. NumPy only."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]

# Elements of each array that decide which belong together.
_SAMPLES = 4096
# Decimal digits in which two arrays agree that are surely the same place.
_AGREE = 6.0
_MOST_DIGITS = 12.0
# What a pair of the same size and of nothing else in common is worth, in digits.
_SAME_SIZE = 0.1


class Pair(NamedTuple):
    """Names of the places of two models that belong together."""

    left: str
    right: str

    @property
    def name(self) -> str:
        """What to call both: their name if they have one."""
        return self.left if self.left == self.right else f"{self.left} = {self.right}"


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Places that belong together.

    Attributes:
        pairs: The places that belong together, in the order of the left.
        only_left: Places that the right side lacks.
        only_right: Places that the left side lacks.
    """

    pairs: tuple[Pair, ...]
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]


def align(left: Arrays, right: Arrays) -> Alignment:
    """Pairs the intermediates of two models.

    Places of one name and size are a pair. Between them the others are paired in order, by dynamic programming: what
    agrees to six digits, and behind the last agreement whatever has the same size, the more alike the better. What
    lies before an agreement and agrees with nothing is another way to compute the same, not where the models part.

    Args:
        left: Intermediates by place, in the order of computation.
        right: The right one, likewise.
    """
    named = [name for name in left if name in right and left[name].size == right[name].size]
    taken = set(named)
    pairs = [Pair(name, name) for name in named]
    for ones, others, end in _gaps(list(left), list(right), _in_one_order(named, list(right))):
        ones, others = ([name for name in part if name not in taken] for part in (ones, others))
        if ones and others:
            agreed = end is not None and _digits(left[end], right[end]) >= _AGREE
            pairs += _pairs_of_gap(left, right, ones, others, open_end=not agreed)
    order = {name: i for i, name in enumerate(left)}
    pairs.sort(key=lambda pair: order[pair.left])
    paired = {pair.left for pair in pairs}, {pair.right for pair in pairs}
    return Alignment(
        pairs=tuple(pairs),
        only_left=tuple(name for name in left if name not in paired[0]),
        only_right=tuple(name for name in right if name not in paired[1]),
    )


def in_layout_of(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The right array in the left one's shape, its channels wherever it is nearer; as it is if the sizes differ."""
    if left.size != right.size:
        return right
    sample = _sample(left)
    best = max(_layouts(right), key=lambda value: _digits_of_samples(sample, _sample(value)))
    return best.reshape(left.shape)


def _gaps(
    left: list[str], right: list[str], anchors: Sequence[str]
) -> Iterator[tuple[list[str], list[str], str | None]]:
    """What lies between neighbouring anchors on both sides, and the anchor that ends it."""
    start = (0, 0)
    for anchor in (*anchors, None):
        end = (len(left), len(right)) if anchor is None else (left.index(anchor), right.index(anchor))
        yield left[start[0] : end[0]], right[start[1] : end[1]], anchor
        start = (end[0] + 1, end[1] + 1)


def _in_one_order(names: Sequence[str], right: Sequence[str]) -> list[str]:
    """The longest subsequence of names whose order is the right side's, too."""
    position = {name: i for i, name in enumerate(right)}
    ends: list[int] = []  # of the best subsequence of each length, its last position
    best: list[list[str]] = []
    for name in names:
        length = bisect.bisect_left(ends, position[name])
        chain = [*(best[length - 1] if length else []), name]
        ends[length : length + 1] = [position[name]]
        best[length : length + 1] = [chain]
    return best[-1] if best else []


def _pairs_of_gap(left: Arrays, right: Arrays, ones: list[str], others: list[str], *, open_end: bool) -> list[Pair]:
    sizes = [left[one].size for one in ones], [right[other].size for other in others]
    samples = [_sample(left[one]) for one in ones], [[_sample(x) for x in _layouts(right[other])] for other in others]
    digits = np.zeros((len(ones), len(others)))
    for i, j in np.ndindex(*digits.shape):
        if sizes[0][i] == sizes[1][j] > 0:
            digits[i, j] = max(_digits_of_samples(samples[0][i], sample) for sample in samples[1][j])
    pairs = _best_path(digits, lambda value: value if value >= _AGREE else 0.0)
    if open_end:
        first, second = (pairs[-1][0] + 1, pairs[-1][1] + 1) if pairs else (0, 0)
        rest = _best_path(digits[first:, second:], lambda value: value)
        pairs += [(first + i, second + j) for i, j in rest]
    return [Pair(ones[i], others[j]) for i, j in pairs]


def _best_path(digits: np.ndarray, worth: Callable[[float], float]) -> list[tuple[int, int]]:
    """Pairs in order whose worth sums to the most; none of worth 0."""
    rows, columns = digits.shape
    total = np.zeros((rows + 1, columns + 1))
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            total[i, j] = max(total[i + 1, j], total[i, j + 1], total[i + 1, j + 1] + worth(digits[i, j]))
    pairs, i, j = [], 0, 0
    while i < rows and j < columns:
        if worth(digits[i, j]) > 0 and total[i, j] == total[i + 1, j + 1] + worth(digits[i, j]):
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif total[i, j] == total[i + 1, j]:
            i += 1
        else:
            j += 1
    return pairs


def _digits(left: np.ndarray, right: np.ndarray) -> float:
    """Decimal digits in which two arrays of one size agree, in the better layout."""
    return max(_digits_of_samples(_sample(left), _sample(value)) for value in _layouts(right))


def _digits_of_samples(left: np.ndarray, right: np.ndarray) -> float:
    norm = np.linalg.norm(right)
    distance = np.linalg.norm(left - right) / norm if norm else np.inf
    if not np.isfinite(distance):
        return _SAME_SIZE
    return float(np.clip(-np.log10(max(distance, 1e-300)), 0, _MOST_DIGITS)) + _SAME_SIZE


def _layouts(value: np.ndarray) -> list[np.ndarray]:
    """An array as it is, and with its channels in the other place."""
    if value.ndim == 4:
        return [value, value.transpose(0, 2, 3, 1), value.transpose(0, 3, 1, 2)]
    return [value, value.transpose(0, 2, 1)] if value.ndim == 3 else [value]


def _sample(value: np.ndarray) -> np.ndarray:
    if value.size > _SAMPLES:
        indices = np.random.default_rng(0).integers(0, value.size, _SAMPLES)
        value = value[np.unravel_index(indices, value.shape)]
    return np.asarray(value, np.float64).ravel()
