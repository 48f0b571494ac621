"""Everything that a run goes on from, in neither framework's words, and the way from one framework to the other.

Parameters, moments and averages are NumPy arrays by canonical name in the canonical layout. AdamW's moments are `mu`
and `nu` (PyTorch: `exp_avg`, `exp_avg_sq`), SGD's is `trace` (`momentum_buffer`). A run's random numbers and learning
rates are functions of the recipe and the step; there is no other state of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import outputs
from ..checkpoints import CheckpointError, account, parameter_shapes, shapes_of
from ..checkpoints.accounting import LINES, cut
from ..configs import Config, close_match
from ..recipes import MOMENTS, Recipe
from . import directory as directories
from .directory import FRAMEWORKS, NAMES, Framework
from .origin import Origin

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A run between two steps.

    Attributes:
        recipe: Of the run.
        step: Steps that were made; every counter of the optimiser and the schedule has it.
        params: By canonical name, in the canonical layout, like all arrays here.
        moments: Of the optimiser, by `MOMENTS` and then by canonical name.
        ema: Averaged parameters, or None where the recipe has no `ema_decay`.
        data: Position of the data iterator, JSON values.
        metrics: The lines of `metrics.jsonl` up to the step.
        origin: What the run started from, if not from values of the seed.
    """

    recipe: Recipe
    step: int
    params: Arrays = field(repr=False)
    moments: Mapping[str, Arrays] = field(repr=False)
    ema: Arrays | None = field(repr=False)
    data: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    origin: Origin | None = None

    def config(self) -> Config:
        """The model's."""
        if self.origin is not None:
            return self.origin.config
        head = shapes_of(self.params).get("head.weight")
        return self.recipe.config(head[0] if head else None)

    def check(self, *, source: str) -> None:
        """Holds the state against its recipe.

        Args:
            source: What to call the state in an error.

        Raises:
            CheckpointError: Missing, unexpected or misshapen tensors of any part, or such of another type than the
                recipe's, all in one report; or a step that the run hasn't.
        """
        shapes = parameter_shapes(self.config())
        expected = ["params", *MOMENTS[self.recipe.optimizer.name], *([] if self.recipe.ema_decay is None else ["ema"])]
        parts = {"params": self.params, **self.moments, **({} if self.ema is None else {"ema": self.ema})}
        found = {f"{part}.{name}": value for part, arrays in parts.items() for name, value in arrays.items()}
        wanted = {f"{part}.{name}": shape for part in expected for name, shape in shapes.items()}
        account(wanted, shapes_of(found), source=source)
        dtype = np.dtype(np.float64 if self.recipe.precision == "float64" else np.float32)
        wrong = [f"{name}: got {value.dtype}" for name, value in found.items() if value.dtype != dtype]
        if wrong:
            raise CheckpointError(f"{source}: expected numbers of type {dtype}\n  {cut(wrong, between=LINES)}")
        # Before the first step there is something to keep where the values came from a checkpoint.
        first = 0 if self.recipe.init_from else 1
        if not first <= self.step <= self.recipe.steps:
            raise CheckpointError(f"{source}: step: got {self.step}, expected {first} to {self.recipe.steps}")


def read_training(path: str | Path, *, step: int | None = None) -> TrainingState:
    """The state of a run, whichever framework trained it; that framework must be installed.

    Args:
        path: Of the run.
        step: Of which checkpoint; the latest by default.

    Raises:
        CheckpointError: No run, no such checkpoint, one whose tensors aren't those of the recipe, or the framework
            isn't installed.
    """
    from .metrics import read_metrics

    path = Path(path)
    checkpoint = directories.checkpoint(path, step)
    state = _framework(directories.writer_of(checkpoint), path).read_training(path, step=step)
    state.check(source=str(checkpoint))
    lines = [record for record in read_metrics(path) if record["step"] <= state.step]
    return dataclasses.replace(state, metrics=tuple(lines))


def write_training(state: TrainingState, directory: str | Path, *, to: Framework) -> None:
    """Writes a run that training in a framework goes on with, whole or not at all; the framework must be installed.

    Args:
        state: Of the run.
        directory: To make.
        to: `flax` or `torch`.

    Raises:
        ValueError: An unknown framework.
        CheckpointError: The directory exists, the tensors aren't those of the recipe, or the framework isn't
            installed.
    """
    from .metrics import write_lines

    directory = Path(directory)
    if to not in FRAMEWORKS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(FRAMEWORKS)}{close_match(to, FRAMEWORKS)}")
    _check_new(directory)
    state.check(source=f"the state for {directory}")
    framework = _framework(to, directory)
    with outputs.whole_directory(directory) as new:
        framework.write_training(state, new)
        write_lines(new, state.metrics)


def convert_training(src: str | Path, dst: str | Path, *, to: Framework, step: int | None = None) -> TrainingState:
    """Makes a run of one framework one of the other, with which its training goes on; both must be installed.

    Args:
        src: Of the run; it stays as it is.
        dst: Of the new run; must not exist.
        to: `flax` or `torch`.
        step: From which checkpoint; the latest by default.

    Returns:
        The state that was moved.

    Raises:
        ValueError: An unknown framework.
        CheckpointError: As `read_training` and `write_training`, or the run is one of that framework already.
    """
    src = Path(src)
    _check_new(dst)
    if directories.framework_of(src) == to:
        raise CheckpointError(f"{src}: to: got {to}, and the checkpoints there are {NAMES[to]}'s already")
    state = read_training(src, step=step)
    write_training(state, dst, to=to)
    return state


def _check_new(directory: str | Path) -> None:
    try:
        outputs.check_new(directory)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _framework(framework: Framework, path: Path) -> Any:
    """The module of a framework that reads and writes its training state."""
    try:
        if framework == "flax":
            from vit_jax import run_checkpoints
        else:
            from vit_torch import run_checkpoints
    except ImportError as error:
        extra = "jax" if framework == "flax" else "torch"
        raise CheckpointError(
            f"{path}: the training state of {NAMES[framework]} needs {error.name}, which isn't installed: "
            f"pip install 'vit-parity[{extra}]'"
        ) from None
    return run_checkpoints
