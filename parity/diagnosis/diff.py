"""Where two models part, and why: `vit-parity diff`, in five steps.

1. Both run on the same images, and what every module computes is kept (`capture_both`).
2. Their intermediates are aligned (`align`).
3. The first pair beyond the tolerance is where they part (`first_difference`).
4. Every hypothesis about what runs there is tried on our PyTorch model, or on the foreign one (`try_all`).
5. The one under which the difference goes away is the cause (`judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks.capture import OUTPUT
from ..checks.parameters import random_images
from ..checks.target import check_dtypes
from ..compare import Comparison, Difference, difference
from ..configs import Config, to_dict
from ..tolerances import FORWARD
from .align import Alignment, align, in_layout_of
from .report import DiffReport, FirstDifference
from .sides import Captures, ImageLayout, Side, capture_both, open_sides
from .trials import Trials, judge, try_all

_SHOWN = 8
# What images are like where no config says it.
_SHAPE = (224, 224, 3)


def diff(
    a: Any,
    b: Any,
    images: np.ndarray | None = None,
    *,
    dtype: str = "float64",
    tolerance: float | None = None,
    layouts: tuple[ImageLayout | None, ImageLayout | None] = (None, None),
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 2,
    seed: int = 0,
    diagnose: bool = True,
    said: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> DiffReport:
    """Holds two models against each other, intermediate by intermediate, and finds the cause of a difference.

    A model of ours without parameters takes those of the other side.

    Args:
        a: A registered name, a config, a checkpoint's path, `hf-hub:owner/name`, `package.module:attribute`,
            `file.py:attribute` (also of a function that makes a model), a PyTorch or Flax NNX model, or a function of
            images that returns outputs or (outputs, {name: intermediate}). `flax:`, `torch:` or `numpy:` in front says
            what it runs in; without, models of ours run in Flax on the left and in PyTorch on the right.
        b: The other model, likewise.
        images: Normalised images (b, h, w, c); random ones by default. PyTorch models get (b, c, h, w).
        dtype: `float64`, `float32` or `bfloat16`; what can't run in float64 is compared in float32.
        tolerance: Largest relative L2 that passes; that of the project for the precision by default.
        layouts: `NHWC` or `NCHW` for the images that a function takes; None for its framework's own.
        image_size: Another input size of models of ours, or that of the random images.
        batch_size: Number of random images.
        seed: The seed of random images, and of parameters where neither side has any.
        diagnose: Whether to look for the cause.
        said: What each checkpoint doesn't say of itself, as keywords of `open_checkpoint`.

    Raises:
        ValueError: What is given is no model, or has no parameters that fit.
    """
    check_dtypes([dtype])
    left, right = open_sides(a, b, layouts=layouts, image_size=image_size, seed=seed, said=said)
    if images is None:
        images = _random_images(left.config or right.config, image_size, batch_size, seed)
    captures = capture_both(left, right, images, dtype)
    limit = FORWARD[captures.dtype].limit if tolerance is None else tolerance
    alignment = align(*captures.places)
    comparison = _compare(captures, alignment)
    place = first_difference(captures, alignment, comparison, limit)
    tried = Trials() if place is None or not diagnose else try_all(captures, alignment, place, limit)
    return DiffReport(
        left=left.name,
        right=right.name,
        dtype=captures.dtype,
        tolerance=limit,
        comparison=comparison,
        place=place,
        trials=tried.trials,
        verdict=None if place is None else judge(tried, place, limit),
        tried_on=tried.tried_on,
        notes=_notes(captures),
    )


def first_difference(
    captures: Captures, alignment: Alignment, comparison: Comparison, limit: float
) -> FirstDifference | None:
    """The first pair of places beyond a limit, or the outputs if these are of other sizes; None if all agree.

    Args:
        captures: What both models computed.
        alignment: Which places belong together.
        comparison: The difference of each pair, in the same order.
        limit: Largest relative L2 that passes.
    """
    left, right = captures.places
    for i, (pair, found) in enumerate(zip(alignment.pairs, comparison.differences, strict=True)):
        if not found.relative_l2 <= limit:
            sizes = (_rms(left[pair.left]), _rms(right[pair.right]))
            before = alignment.pairs[i - 1] if i else None
            return FirstDifference(left=pair.left, right=pair.right, found=found, rms=sizes, before=before)
    if OUTPUT in {pair.left for pair in alignment.pairs}:
        return None
    shapes = left[OUTPUT].shape, right[OUTPUT].shape
    found = Difference(name=OUTPUT, left_shape=shapes[0], right_shape=shapes[1], relative_l2=np.inf, max_abs=np.inf)
    sizes = (_rms(left[OUTPUT]), _rms(right[OUTPUT]))
    before = alignment.pairs[-1] if alignment.pairs else None
    return FirstDifference(left=OUTPUT, right=OUTPUT, found=found, rms=sizes, before=before)


def _notes(captures: Captures) -> tuple[str, ...]:
    """What else there is to say: of the precision, of what was assumed, and of how two models of ours differ."""
    assumed = [f"{side.name}: assumed {text}" for side in captures.sides for text in side.assumed]
    return (*captures.notes, *assumed, *_differences_of_ours(*captures.sides))


def _random_images(
    config: Config | None, image_size: int | tuple[int, int] | None, batch_size: int, seed: int
) -> np.ndarray:
    if config is not None:
        others = ", ".join(one.name for one in config.inputs if not one.is_image)
        if others:
            what = f"a {type(config).__name__}, which is called with {others}, too"
            raise ValueError(
                f"model: got {what}, expected a model of images alone; `vit-parity check` compares its twins"
            )
        return random_images(config, batch_size, seed)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or _SHAPE[:2]
    return np.random.default_rng(seed).standard_normal((batch_size, *size, _SHAPE[2]))


def _compare(captures: Captures, alignment: Alignment) -> Comparison:
    """The differences of all pairs, in their order."""
    left, right = captures.places
    return Comparison(
        differences=tuple(
            difference(pair.name, left[pair.left], in_layout_of(left[pair.left], right[pair.right]))
            for pair in alignment.pairs
        ),
        only_left=alignment.only_left,
        only_right=alignment.only_right,
    )


def _rms(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(value, np.float64))))) if value.size else 0.0


def _differences_of_ours(left: Side, right: Side) -> list[str]:
    """Config fields and tensors in which two models of ours differ."""
    if left.config is None or right.config is None or left.tensors is None or right.tensors is None:
        return []
    one, other = to_dict(left.config), to_dict(right.config)
    notes = [f"config: {key}: {one[key]} and {other.get(key)}" for key in one if one[key] != other.get(key)]
    unequal = [] if left.tensors is right.tensors else not_equal(left.tensors, right.tensors)
    shown = ", ".join(unequal[:_SHOWN]) + (f" and {len(unequal) - _SHOWN} more" if len(unequal) > _SHOWN else "")
    return [*notes, *([f"parameters that differ: {shown}"] if unequal else [])]


def not_equal(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> list[str]:
    """Names of tensors of which one side has other values or none, whatever their types."""
    names = dict.fromkeys((*left, *right))
    return [n for n in names if n not in left or n not in right or not np.array_equal(left[n], right[n])]
