"""DINOv3's rotary positions, from the periods that its files keep.

    periods = temperature ** (i / n)                                      i = 0 ... n - 1
    periods = min_period * (max_period / min_period) ** (i / (n - 1))

The original computes either in its buffer's type, which is bfloat16 in the published files, so a file shows numbers
that are rounded a few times. Of the values that would be rounded to these the one with the fewest digits is meant, and
where both forms do, the one that needs fewer. How coordinates are normalised is in no tensor.

Source: facebookresearch `dinov3/layers/rope_position_encoding.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...configs import Rope
from ...configs.rope import centered_frequencies, frequencies
from ..accounting import CheckpointError
from ..assumed import Given
from .meta_names import PERIODS

# As the original's code has it; and the published models'.
_CENTERED = Rope(kind="centered", rotate_half=True)
_USUAL = replace(_CENTERED, temperature=100.0)
# What `meta.json` keeps of it; the rest is the project's code.
FIELDS = ("temperature", "min_period", "max_period", "normalize_coords", "rescale")


def rope_of(tensors: Mapping[str, np.ndarray], said: Mapping[str, Any] | None, given: Given, *, path: Path) -> Rope:
    """The rotary positions of a file, of which the periods alone are read.

    Args:
        tensors: The tensors by their names.
        said: What a document says of them, if there is one: `FIELDS`.
        given: What the user says; collects what is assumed.
        path: The path of the file, for errors.

    Raises:
        CheckpointError: Periods that are in neither form, or a contradiction with what is said.
        ValueError: A document's or the user's values that can't be used.
    """
    if "rope" in given.fields:  # is held against the file when all of the config is known
        return given.take("rope") or _USUAL
    periods = np.asarray(tensors[PERIODS]) if PERIODS in tensors else None
    like = given.like.rope if given.like is not None else None
    if said is not None:
        rope = replace(_USUAL, **{name: said[name] for name in FIELDS if name in said})
    elif like is not None and like.kind == "centered":
        rope = like
    else:
        rope = _USUAL if periods is None else _shown(periods, path)
        if periods is None and "rope.min_period" not in given.fields:
            given.assume("rope.temperature", rope.temperature, f"the published models'; the file has no {PERIODS}")
        why = "that of the published models; outputs for images that aren't square depend on it"
        given.assume("rope.normalize_coords", rope.normalize_coords, why)
    inner = {name: given.take(f"rope.{name}") for name in FIELDS if f"rope.{name}" in given.fields}
    if "temperature" in inner:  # periods would take its place
        inner = dict(min_period=None, max_period=None) | inner
    elif "min_period" in inner:
        inner["temperature"] = _CENTERED.temperature
    return replace(rope, **inner)


def check_periods(tensors: Mapping[str, np.ndarray], rope: Rope | None, head_dim: int, *, path: Path) -> None:
    """Holds a file's periods against the positions that its model is to have.

    Raises:
        CheckpointError: The periods are others.
    """
    if rope is None or PERIODS not in tensors:
        return
    periods = np.asarray(tensors[PERIODS])
    if periods.shape != (head_dim // 4,) or not _fits(periods, rope):
        between = f"min_period {rope.min_period} and max_period {rope.max_period}"
        form = between if rope.min_period is not None else f"temperature {rope.temperature}"
        raise CheckpointError(f"{path}: {PERIODS}: got other periods than those of {form}{_ends(periods)}")


def periods_of(rope: Rope, head_dim: int) -> np.ndarray:
    """The periods that a file keeps, in float64."""
    if rope.kind == "centered":
        ends: dict[str, Any] = dict(min_period=rope.min_period, max_period=rope.max_period)
        radians = centered_frequencies(head_dim, temperature=rope.temperature, **ends)
    else:
        radians = frequencies(head_dim, temperature=rope.temperature)
    return 2 * math.pi / radians


def _shown(periods: np.ndarray, path: Path) -> Rope:
    """The positions with the periods of a file."""
    found = periods.astype(np.float64)
    if found.ndim == 1 and found.size and np.all(np.isfinite(found)) and np.all(found > 0):
        candidates = [rope for rope in _candidates(found, _unit(periods)) if _fits(periods, rope)]
        exact = (rope for rope in candidates if _is_exact(periods, rope))
        if candidates:
            return next(exact, candidates[0])
    raise CheckpointError(
        f"{path}: {PERIODS}: got other periods than those of a temperature, or of a shortest and a longest one"
        f"{_ends(periods)}"
    )


def _ends(periods: np.ndarray) -> str:
    flat = periods.reshape(-1)
    return f": {flat.size} from {flat[0]:.4g} to {flat[-1]:.4g}" if flat.size else ": none"


def _candidates(periods: np.ndarray, unit: float) -> list[Rope]:
    """The positions that both ends of a series make, in either form; those with the fewest digits first."""
    first, last = float(periods[0]), float(periods[-1])
    found = []
    if periods.size == 1:
        found.append(_USUAL)
    elif last > 1:
        power = periods.size / (periods.size - 1)
        found += [replace(_CENTERED, temperature=number) for number in _near(last**power, power * _ROUNDINGS * unit)]
    pairs = itertools.product(*(_near(end, _ROUNDINGS * unit) for end in (first, last)))
    found += [replace(_CENTERED, min_period=low, max_period=high) for low, high in pairs if low <= high]
    return sorted(found, key=_digits)


def _is_exact(periods: np.ndarray, rope: Rope) -> bool:
    """Whether a series, or of one between two periods its ends, is as the original rounds it, or rounded once."""
    dtype, count = (ml_dtypes.bfloat16 if _unit(periods) == _BFLOAT16 else np.float32), periods.size

    def rounded(value: Any) -> np.ndarray:
        return np.asarray(value, np.float64).astype(dtype).astype(np.float64)

    found, once = rounded(periods), rounded(periods_of(rope, 4 * count))
    if rope.min_period is None or rope.max_period is None:
        made = rounded(rope.temperature ** rounded(np.arange(count) / count))
    else:
        base = rope.max_period / rope.min_period
        made = rounded(rounded(rounded([1, base]) / base) * rope.max_period)
        found, once = found[[0, -1]], once[[0, -1]]
    return np.array_equal(found, made) or np.array_equal(found, once)


def _fits(periods: np.ndarray, rope: Rope) -> bool:
    """Whether periods are those of some positions but for the rounding of each step that makes them.

    The exponents are rounded, too: those of a temperature once, those between two periods by a step that is.
    """
    found, unit, count = periods.astype(np.float64), _unit(periods), periods.size
    expected = periods_of(rope, 4 * count)
    if rope.min_period is None:
        exact = np.arange(count) / count
        off = np.abs(exact.astype(np.float32 if unit < _BFLOAT16 else ml_dtypes.bfloat16).astype(np.float64) - exact)
    else:
        off = np.where(np.isin(np.arange(count), (0, count - 1)), 0, 2 * unit)
    span = abs(math.log(expected[-1] / expected[0])) * count / max(count - 1, 1)
    tolerance = _ROUNDINGS * unit + span * off
    return bool(np.all(np.isfinite(found)) and np.all(np.abs(found / expected - 1) <= tolerance))


# Of both forms, after the exponent.
_ROUNDINGS = 3
_BFLOAT16 = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) / 2


def _unit(periods: np.ndarray) -> float:
    """Relative error of one rounding to the type that periods were computed in, which may be narrower than theirs."""
    with np.errstate(all="ignore"):
        single = periods.astype(np.float32)
        is_bfloat16 = np.array_equal(single.astype(ml_dtypes.bfloat16).astype(np.float32), single)
    return _BFLOAT16 if is_bfloat16 else float(np.finfo(np.float32).eps) / 2


def _near(value: float, tolerance: float) -> list[float]:
    """The numbers that a value is rounded to, but for a relative tolerance; the one with the fewest digits first."""
    rounded = (float(f"{value:.{digits}e}") for digits in range(17))
    return list(dict.fromkeys(number for number in rounded if abs(number / value - 1) <= tolerance))


def _digits(rope: Rope) -> int:
    numbers = [rope.temperature] if rope.min_period is None else [rope.min_period, rope.max_period]
    return max(len(Decimal(repr(number)).normalize().as_tuple().digits) for number in numbers)
