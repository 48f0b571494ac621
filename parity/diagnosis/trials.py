"""Hypotheses tried on one of two models, and which of them is the cause: the fourth and fifth step of `diff`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checks.capture import INPUT, OUTPUT, capture_torch, in_dtype
from ..compare import difference
from .align import Alignment, Pair, in_layout_of
from .hypotheses import Hypothesis, propose
from .report import FirstDifference, Trial, Verdict
from .sides import Captures

# A hypothesis under which the difference falls by this factor is the cause.
EXPLAINS = 100.0
TRAINING = "training_mode"
OUTPUTS = Pair(OUTPUT, OUTPUT)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """How far two models are apart, as relative L2.

    Attributes:
        at_place: The distance at the first place where the two differ.
        at_output: The distance of the outputs.
    """

    at_place: float
    at_output: float


class Bench:
    """A PyTorch model that hypotheses are tried on, and what it is held against.

    Args:
        model: The model of one side, or our twin of it.
        captures: What both sides computed.
        side: Whose model it is: 0 for the left side, 1 for the right one.
        pairs: Places that belong together, in order; those before `first` agree.
        first: The pair where the two part.
    """

    def __init__(self, model: nn.Module, captures: Captures, side: int, pairs: Sequence[Pair], first: Pair):
        # Before anything is changed: a change may hold on to the parameters that it found.
        self.model = in_dtype(model, getattr(torch, captures.dtype))
        self.side = side
        self.pairs = pairs if first in pairs else [*pairs, first]
        self.first = first
        self._images = captures.images
        self._others = captures.places[1 - side]

    def differences(
        self, hypotheses: Sequence[Hypothesis], pairs: Sequence[Pair] | None = None
    ) -> dict[Pair, float] | None:
        """The difference of each pair under some hypotheses together; None if the model can't run so."""
        pairs = self.pairs if pairs is None else pairs
        model, images = copy.deepcopy(self.model), self._images
        try:
            for hypothesis in hypotheses:
                hypothesis.apply(model)
                images = images if hypothesis.images is None else hypothesis.images(images)
            own = capture_torch(model, images, places={pair[self.side] for pair in pairs})
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            return None  # a change that this model can't take isn't what the other side does
        return {pair: _distance(own.get(pair[self.side]), self._others[pair[1 - self.side]]) for pair in pairs}

    def distances(self, hypotheses: Sequence[Hypothesis]) -> Distances | None:
        """The differences where the two part and of the outputs, under some hypotheses together."""
        found = self.differences(hypotheses, (self.first, OUTPUTS))
        return Distances(at_place=found[self.first], at_output=found[OUTPUTS]) if found else None


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What was tried.

    Attributes:
        trials: What became of the difference under each hypothesis, best first.
        proposed: The hypotheses, without that of training mode.
        bench: What they were tried on; None where neither side is a PyTorch model or has a twin that is.
    """

    trials: tuple[Trial, ...] = ()
    proposed: tuple[Hypothesis, ...] = ()
    bench: Bench | None = None

    @property
    def tried_on(self) -> str:
        """The side whose model was changed, `left` or `right`; empty if none was."""
        return "" if self.bench is None else ("left", "right")[self.bench.side]


def try_all(captures: Captures, alignment: Alignment, place: FirstDifference, limit: float) -> Trials:
    """Tries every hypothesis about what runs between the last place that agrees and the first that doesn't.

    They are tried on the model of ours, on the left one if both are, and on the foreign one where neither is.

    Args:
        captures: What both models computed.
        alignment: Which places belong together.
        place: Where the two part.
        limit: Largest relative L2 that passes.
    """
    trials = _without_dropout(captures, place)
    sides = captures.sides
    ours = [i for i, side in enumerate(sides) if side.config] or [i for i, side in enumerate(sides) if side.module]
    if not ours:
        return Trials(trials=tuple(trials))
    index = ours[0]
    side = sides[index]
    model: Any = side.module if side.config is None else side.twin("torch")
    bench = Bench(model, captures, index, alignment.pairs, Pair(place.left, place.right))
    agreed = [pair[index] for pair in bench.pairs[: bench.pairs.index(bench.first)]]
    paths = _between(list(captures.places[index]), agreed, bench.first[index])
    stored = None if side.stored is None else (side.stored.config, side.stored.tensors)
    proposed = propose(model, paths, images=not agreed, stored=stored)
    trials += _tried(bench, proposed)
    trials.sort(key=lambda trial: (max(trial.at_place, limit), max(trial.at_output, limit)))
    return Trials(trials=tuple(trials), proposed=tuple(proposed), bench=bench)


def judge(tried: Trials, place: FirstDifference, limit: float) -> Verdict | None:
    """The best hypothesis, if the difference goes away under it: there alone or in all modules of its kind.

    Args:
        tried: What was tried.
        place: Where the two part.
        limit: Largest relative L2 that passes.
    """
    best, bench = next(iter(tried.trials), None), tried.bench
    if best is None or not (best.at_place <= limit or best.at_place * EXPLAINS <= place.found.relative_l2):
        return None
    if bench is None or best.cause == TRAINING:
        return Verdict(trial=best, everywhere=False, at_output=best.at_output, next_place=None)
    here = [h for h in tried.proposed if (h.cause, h.text, h.path) == (best.cause, best.text, best.path)]
    paths = [path for path, _ in bench.model.named_modules()]
    same = [h for h in propose(bench.model, paths) if (h.cause, h.text) == (best.cause, best.text)]
    found = bench.distances(same) if len(same) > 1 else None
    everywhere = (
        found is not None and found.at_place <= max(best.at_place, limit) and found.at_output < best.at_output / 10
    )
    left = bench.differences(same if everywhere else here) or {}
    at_output = left.get(OUTPUTS, np.inf)
    # Where the outputs agree, what differs before them is the same in another order.
    behind = [] if at_output <= limit else list(left.items())[bench.pairs.index(bench.first) :]
    beyond = [pair[bench.side] for pair, distance in behind if not distance <= limit]
    return Verdict(trial=best, everywhere=everywhere, at_output=at_output, next_place=next(iter(beyond), None))


def _without_dropout(captures: Captures, place: FirstDifference) -> list[Trial]:
    """The sides that are in training mode, run in evaluation mode."""
    trials = []
    for i, side in enumerate(captures.sides):
        still = side.in_evaluation()
        if still is not None:
            own, others = still.run(captures.images, captures.dtype), captures.places[1 - i]
            first = Pair(place.left, place.right)
            trials.append(
                Trial(
                    cause=TRAINING,
                    text=f"{side.name} is in training mode, with dropout or drop path",
                    path="",
                    at_place=_distance(own.get(first[i]), others[first[1 - i]]),
                    at_output=_distance(own[OUTPUT], others[OUTPUT]),
                )
            )
    return trials


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


def _tried(bench: Bench, proposed: Sequence[Hypothesis]) -> list[Trial]:
    """What each hypothesis does to the difference; without those that change nothing."""
    untouched = bench.distances([])
    trials = []
    for hypothesis in proposed:
        found = bench.distances([hypothesis])
        if found is not None and found != untouched:
            named = dict(cause=hypothesis.cause, text=hypothesis.text, path=hypothesis.path)
            trials.append(Trial(**named, at_place=found.at_place, at_output=found.at_output))
    return trials


def _distance(own: np.ndarray | None, other: np.ndarray) -> float:
    return np.inf if own is None else difference("", in_layout_of(other, own), other).relative_l2
