"""Where two models part, and why: `vit-parity diff`.

Both run on the same images; their intermediates are aligned; the first pair beyond the tolerance is where they part.
Then every hypothesis about what runs there is tried on our PyTorch model (on the foreign one, where neither is ours):
the one under which the difference goes away is the cause.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checks.capture import INPUT, OUTPUT, Captured, capture_torch, in_dtype
from ..checks.parameters import random_images
from ..checks.target import check_dtypes
from ..compare import Comparison, Difference, difference
from ..configs import Config, to_dict
from ..tolerances import FORWARD
from .align import Alignment, Pair, align, in_layout_of
from .hypotheses import Hypothesis, propose
from .report import DiffReport, Place, Trial, Verdict
from .sides import Layout, Side, open_sides

# A hypothesis under which the difference falls by this factor is the cause.
EXPLAINS = 100.0
TRAINING = "training_mode"
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
    layouts: tuple[Layout | None, Layout | None] = (None, None),
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
        b: Likewise.
        images: Normalised (b, h, w, c); random ones by default. PyTorch models get (b, c, h, w).
        dtype: `float64`, `float32` or `bfloat16`; what can't run in float64 is compared in float32.
        tolerance: Largest relative L2 that passes; that of the project for the precision by default.
        layouts: `NHWC` or `NCHW` for the images that a function takes; None for its framework's own.
        image_size: Another input size of models of ours, or that of the random images.
        batch_size: Number of random images.
        seed: Of random images, and of parameters where neither side has any.
        diagnose: Whether to look for the cause.
        said: What each checkpoint doesn't say of itself, as keywords of `open_checkpoint`.

    Raises:
        ValueError: What is given is no model, or has no parameters that fit.
    """
    check_dtypes([dtype])
    left, right = open_sides(a, b, layouts=layouts, image_size=image_size, seed=seed, said=said)
    if images is None:
        images = _random_images(left.config or right.config, image_size, batch_size, seed)
    captured, dtype, notes = _run(left, right, images, dtype)
    alignment, limit = align(*captured), FORWARD[dtype].limit if tolerance is None else tolerance
    comparison = _compare(captured, alignment)
    place = _first_place(comparison, alignment, captured, limit)
    trials, verdict, tried_on = [], None, ""
    if place is not None and diagnose:
        trials, verdict, tried_on = _diagnose((left, right), images, dtype, captured, alignment, place, limit)
    return DiffReport(
        left=left.name,
        right=right.name,
        dtype=dtype,
        tolerance=limit,
        comparison=comparison,
        place=place,
        trials=tuple(trials),
        verdict=verdict,
        tried_on=tried_on,
        notes=(*notes, *_assumed(left), *_assumed(right), *_differences_of_ours(left, right)),
    )


def _assumed(side: Side) -> list[str]:
    return [f"{side.name}: assumed {text}" for text in side.assumed]


def _run(left: Side, right: Side, images: np.ndarray, dtype: str) -> tuple[tuple[Captured, Captured], str, list[str]]:
    """The intermediates of both in one precision, which it is, and why it isn't the one that was asked for."""
    try:
        return (left.run(images, dtype), right.run(images, dtype)), dtype, []
    except Exception as error:  # foreign code may raise anything where it is given float64
        if dtype != "float64":
            raise
        reason = f"compared in float32, since not both run in float64: {type(error).__name__}: {error}"
        return (left.run(images, "float32"), right.run(images, "float32")), "float32", [reason]


def _random_images(
    config: Config | None, image_size: int | tuple[int, int] | None, batch_size: int, seed: int
) -> np.ndarray:
    if config is not None:
        return random_images(config, batch_size, seed)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or _SHAPE[:2]
    return np.random.default_rng(seed).standard_normal((batch_size, *size, _SHAPE[2]))


def _compare(captured: tuple[Captured, Captured], alignment: Alignment) -> Comparison:
    """The differences of all pairs; of one name where both sides have the same."""
    left, right = captured
    return Comparison(
        differences=tuple(
            difference(_name(pair), left[pair[0]], in_layout_of(left[pair[0]], right[pair[1]]))
            for pair in alignment.pairs
        ),
        only_left=alignment.only_left,
        only_right=alignment.only_right,
    )


def _name(pair: Pair) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} = {pair[1]}"


def _first_place(
    comparison: Comparison, alignment: Alignment, captured: tuple[Captured, Captured], limit: float
) -> Place | None:
    for i, found in enumerate(comparison.differences):
        if not found.relative_l2 <= limit:
            pair = alignment.pairs[i]
            sizes = _rms(captured[0][pair[0]]), _rms(captured[1][pair[1]])
            before = alignment.pairs[i - 1] if i else None
            return Place(left=pair[0], right=pair[1], found=found, rms=sizes, before=before)
    if OUTPUT not in {one for one, _ in alignment.pairs}:
        shapes = [side[OUTPUT].shape for side in captured]
        found = Difference(name=OUTPUT, left_shape=shapes[0], right_shape=shapes[1], relative_l2=np.inf, max_abs=np.inf)
        before = alignment.pairs[-1] if alignment.pairs else None
        sizes = (_rms(captured[0][OUTPUT]), _rms(captured[1][OUTPUT]))
        return Place(left=OUTPUT, right=OUTPUT, found=found, rms=sizes, before=before)
    return None


def _rms(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(value, np.float64))))) if value.size else 0.0


class _Bench:
    """A PyTorch model that hypotheses are tried on, and what it is held against.

    Args:
        model: Of one side, or our twin of it.
        images: (b, h, w, c).
        dtype: To compute in.
        theirs: The other side's intermediates.
        pairs: Places of the model and of the other side, in order; those before `first` agree.
        first: The pair where they part.
    """

    def __init__(
        self, model: nn.Module, images: np.ndarray, dtype: str, theirs: Captured, pairs: Sequence[Pair], first: Pair
    ):
        # Before anything is changed: a change may hold on to the parameters that it found.
        self.model = in_dtype(model, getattr(torch, dtype))
        self.first = first
        self._images = images
        self._theirs = theirs
        self.index = pairs.index(first)
        self._pairs = pairs

    def differences(
        self, hypotheses: Sequence[Hypothesis], pairs: Sequence[Pair] | None = None
    ) -> list[tuple[Pair, float]] | None:
        """The difference of each pair under some hypotheses; None if the model can't run so."""
        pairs = self._pairs if pairs is None else pairs
        model, images = copy.deepcopy(self.model), self._images
        try:
            for hypothesis in hypotheses:
                hypothesis.apply(model)
                images = images if hypothesis.images is None else hypothesis.images(images)
            mine = capture_torch(model, images, places={one for one, _ in pairs})
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            return None  # a change that this model can't take isn't what the other side does
        return [(pair, _distance(mine.get(pair[0]), self._theirs[pair[1]])) for pair in pairs]

    def trial(self, hypotheses: Sequence[Hypothesis]) -> tuple[float, float] | None:
        """The difference where the two part, and that of the output."""
        found = dict(self.differences(hypotheses, (self.first, (OUTPUT, OUTPUT))) or [])
        return (found[self.first], found[OUTPUT, OUTPUT]) if found else None


def _distance(mine: np.ndarray | None, theirs: np.ndarray) -> float:
    return np.inf if mine is None else difference("", in_layout_of(theirs, mine), theirs).relative_l2


def _diagnose(
    sides: tuple[Side, Side],
    images: np.ndarray,
    dtype: str,
    captured: tuple[Captured, Captured],
    alignment: Alignment,
    place: Place,
    limit: float,
) -> tuple[list[Trial], Verdict | None, str]:
    """Every hypothesis tried, best first; what explains the difference; and on which side they were tried."""
    trials = _without_dropout(sides, images, dtype, captured, place)
    ours = [i for i, side in enumerate(sides) if side.config] or [i for i, side in enumerate(sides) if side.module]
    if ours:
        index = ours[0]
        side = sides[index]
        model: Any = side.module if side.config is None else side.twin("torch")
        flip = slice(None, None, 1 if index == 0 else -1)
        first: Any = (place.left, place.right)[flip]
        pairs: list[Any] = [pair[flip] for pair in alignment.pairs]
        pairs = pairs if first in pairs else [*pairs, first]
        bench = _Bench(model, images, dtype, captured[1 - index], pairs, first)
        agreed = [one for one, _ in pairs[: pairs.index(first)]]
        paths = _between(list(captured[index]), agreed, first[0])
        proposed = propose(model, paths, images=not agreed, stored=side.stored)
        trials += _tried(bench, proposed)
        trials.sort(key=lambda trial: (max(trial.at_place, limit), max(trial.at_output, limit)))
        return trials, _verdict(trials, bench, proposed, place, limit), ("left", "right")[index]
    return trials, _verdict(trials, None, [], place, limit), ""


def _between(places: Sequence[str], agreed: Sequence[str], first: str) -> list[str]:
    """Paths of the modules that run behind the last place that agrees, up to the first that doesn't."""
    end = places.index(first)
    known = set(agreed)
    start = max((i + 1 for i, name in enumerate(places[:end]) if name in known), default=0)
    paths = []
    for name in places[start : end + 1]:
        path = name.partition("#")[0]
        if path.endswith(INPUT):  # computed by whoever calls that module
            path = path.removesuffix(INPUT).rpartition(".")[0]
        paths.append("" if path == OUTPUT else path)
    return list(dict.fromkeys(paths))


def _without_dropout(
    sides: tuple[Side, Side], images: np.ndarray, dtype: str, captured: tuple[Captured, Captured], place: Place
) -> list[Trial]:
    """The sides that are in training mode, run in evaluation mode."""
    trials = []
    for i, side in enumerate(sides):
        still = side.in_evaluation()
        if still is not None:
            mine, theirs = still.run(images, dtype), captured[1 - i]
            one, other = (place.left, place.right) if i == 0 else (place.right, place.left)
            text = f"{side.name} is in training mode, with dropout or drop path"
            distances = _distance(mine.get(one), theirs[other]), _distance(mine[OUTPUT], theirs[OUTPUT])
            trials.append(Trial(cause=TRAINING, text=text, path="", at_place=distances[0], at_output=distances[1]))
    return trials


def _tried(bench: _Bench, proposed: Sequence[Hypothesis]) -> list[Trial]:
    """What each hypothesis does to the difference; without those that change nothing."""
    untouched = bench.trial([])
    trials = []
    for hypothesis in proposed:
        found = bench.trial([hypothesis])
        if found is not None and found != untouched:
            named = dict(cause=hypothesis.cause, text=hypothesis.text, path=hypothesis.path)
            trials.append(Trial(**named, at_place=found[0], at_output=found[1]))
    return trials


def _verdict(
    trials: Sequence[Trial], bench: _Bench | None, proposed: Sequence[Hypothesis], place: Place, limit: float
) -> Verdict | None:
    """The best hypothesis, if the difference goes away under it: there alone or in all modules of its kind."""
    best = next(iter(trials), None)
    if best is None or not (best.at_place <= limit or best.at_place * EXPLAINS <= place.found.relative_l2):
        return None
    if bench is None or best.cause == TRAINING:
        return Verdict(trial=best, everywhere=False, at_output=best.at_output, next_place=None)
    here = [h for h in proposed if (h.cause, h.text, h.path) == (best.cause, best.text, best.path)]
    paths = [path for path, _ in bench.model.named_modules()]
    same = [h for h in propose(bench.model, paths) if (h.cause, h.text) == (best.cause, best.text)]
    found = bench.trial(same) if len(same) > 1 else None
    everywhere = found is not None and found[0] <= max(best.at_place, limit) and found[1] < best.at_output / 10
    left = bench.differences(same if everywhere else here) or []
    at_output = dict(left).get((OUTPUT, OUTPUT), np.inf)
    # Where the outputs agree, what differs before them is the same in another order.
    rest = [] if at_output <= limit else left[bench.index :]
    beyond = [pair for pair, distance in rest if not distance <= limit]
    return Verdict(
        trial=best,
        everywhere=everywhere,
        at_output=at_output,
        next_place=beyond[0][0] if beyond else None,
    )


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
