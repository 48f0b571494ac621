"""Training: a recipe and a directory in, a trained model out. Twin: `vit_jax/train.py`.

The directory holds `recipe.json`, `model.json` (what it trains), `init.json` (what it started from, if not from values
of the seed), `frozen.json` (which models help, if any), `metrics.jsonl`, `tensorboard/`, `checkpoints/` (`torch.save`:
state and position in the data) and, at the end, `model/`, a native checkpoint that either framework loads, and
`model_ema/` of the averaged parameters, if there are any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from parity.recipes import Recipe
from parity.runs.directory import check
from parity.runs.frozen import record_frozen
from parity.runs.inputs import Inputs, due
from parity.runs.metrics import Reporter
from parity.runs.start import Start

from . import random
from .checkpoint import save
from .evaluate import Evaluation
from .parallel import process_rows, processes
from .run_checkpoints import RunDirectory
from .start import first_state
from .train_step import Metrics, Params, Trainer, TrainState, make_trainer, mixed

OnStep = Callable[[int, Metrics], None]
MODEL, MODEL_EMA = "model", "model_ema"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        directory: The directory of the run.
        model: Directory of the native checkpoint.
        complete: Whether the recipe's last step was made; only then `model` is there.
        evaluation: What the last parameters make of the test split.
        steps: Steps that this call made: fewer than the recipe's if it resumed or stopped.
        seconds: The seconds that this call took.
    """

    directory: Path
    model: Path
    complete: bool
    evaluation: Evaluation
    steps: int
    seconds: float


def train(
    recipe: Recipe,
    directory: str | Path,
    *,
    resume: bool = True,
    stop_at: int | None = None,
    data_dir: str | Path | None = None,
    device: torch.device | str | None = None,
    on_step: OnStep | None = None,
    console: Console | None = None,
) -> Result:
    """Trains a model, or goes on where an earlier call was interrupted.

    With several processes, call `torch.distributed.init_process_group` first and this function in each of them, with
    one directory that all can write. The recipe's mesh is Flax's: here each process has all parameters.

    Args:
        recipe: The recipe of the run.
        directory: The directory of the run.
        resume: Whether to go on with a run that is there; if not, none may be there.
        stop_at: Ends the call after this step, with a checkpoint to go on from and without `model/`; the schedule stays
            the recipe's.
        data_dir: Where TFDS sets are kept.
        device: The device to train on; the CPU by default.
        on_step: Called after each step with its number, from 1, and its metrics, which may still be being computed.
        console: Where the progress bar is printed; None prints nothing.

    Raises:
        ValueError: The directory holds another run (the fields that differ are named), the processes don't fit the
            batch, or the data doesn't fit the model.
    """
    started = time.perf_counter()
    directory = Path(directory)
    is_first = processes()[0] == 0
    _check_batch_size(recipe)
    check(directory, recipe, resume=resume, framework="torch")
    rows = process_rows(recipe.batch_size)
    inputs = Inputs(recipe, data_dir, directory=directory, rows=rows, is_first=is_first)
    kept = RunDirectory(directory, recipe, inputs.config, resume=resume, origin=inputs.start.origin)
    if is_first:
        record_frozen(directory, inputs.frozen)
    with kept as run, _numerics(recipe):
        trainer = make_trainer(recipe, inputs.config, device, inputs.frozen)
        with closing(inputs.train_batches()) as batches:
            last = recipe.steps if stop_at is None else min(stop_at, recipe.steps)
            session = _Session(recipe, last, trainer, run, inputs, batches, on_step)
            state = session.start()
            first = state.step
            with _reporter(inputs.start, directory, first=first, console=console) as reporter:
                state, evaluation = session.finish(state, first, reporter)
        if complete := last == recipe.steps:
            _save_models(trainer, state, directory, start=inputs.start)
    return Result(
        directory=directory,
        model=directory / MODEL,
        complete=complete,
        evaluation=evaluation,
        steps=max(0, last - first),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Session:
    """What one call of `train` works with."""

    recipe: Recipe
    last: int
    trainer: Trainer
    run: RunDirectory
    inputs: Inputs
    batches: Any
    on_step: OnStep | None

    def start(self) -> TrainState:
        """The state of the latest checkpoint, with the data where it was, or the first state."""
        state = self.trainer.init(self.recipe.seed)
        restored = self.run.restore(state)
        taken = restored or first_state(self.trainer, self.inputs.start)
        if taken is None:
            return state
        state, position = taken
        if position is not None:
            self.batches.set_state(position)
        if restored is None:  # what the run starts from is read once, and may then go
            self.run.save(state.step, state, self.batches.get_state())
        return state

    def finish(self, state: TrainState, first: int, reporter: Reporter) -> tuple[TrainState, Evaluation]:
        """Makes the steps that are left and evaluates the last parameters."""
        recipe, key, evaluation = self.recipe, self._key(), None
        for step in range(first + 1, self.last + 1):
            state, metrics = self.trainer.step(state, _put(next(self.batches), self.trainer.model), key)
            reporter.step(step, metrics)
            if self.on_step is not None:
                self.on_step(step, metrics)
            if due(step, recipe.eval_every, self.last):
                evaluation = self._evaluate(step, state, reporter)
            if due(step, recipe.checkpoint_every, self.last):
                self.run.save(step, state, self.batches.get_state())
                reporter.pause()
        # A run that was complete before made no step here.
        return state, evaluation or self._evaluate(self.last, state, None)

    def _evaluate(self, step: int, state: TrainState, reporter: Reporter | None) -> Evaluation:
        """Evaluates in the precision of the training, the averaged parameters too; returns that of the last ones."""
        evaluations = [_evaluation(self.trainer, tensors, self.recipe, self.inputs) for tensors in _kinds(state)]
        for ema, evaluation in enumerate(evaluations):
            if reporter is not None:
                reporter.evaluation(step, evaluation.metrics, ema=bool(ema))
        return evaluations[0]

    def _key(self) -> Any:
        """The key of the steps."""
        return random.split(random.key(self.recipe.seed), 2)[1]


def _check_batch_size(recipe: Recipe) -> None:
    """Each process holds whole pairs of images that are mixed, and as many rows of each part that is accumulated."""
    world, mixes = processes()[1], recipe.data.augmentation.mixes
    parts = recipe.accumulate * world * (2 if mixes else 1)
    if recipe.batch_size % parts:
        factors = "accumulate times the number of processes" + (", times 2 for pairs to mix" if mixes else "")
        raise ValueError(f"batch_size: got {recipe.batch_size}, expected a multiple of {parts}: {factors}")


@contextmanager
def _numerics(recipe: Recipe) -> Iterator[None]:
    """What is called float32 shall not be multiplied in TF32."""
    before = torch.get_float32_matmul_precision()
    if recipe.precision == "float32":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _reporter(start: Start, directory: Path, *, first: int, console: Console | None) -> Reporter:
    recipe = start.recipe
    return Reporter(
        directory,
        first=first,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        log_every=recipe.log_every,
        console=console,
        told=start.lines(),
        before=start.metrics(),
        main=processes()[0] == 0,
        wait=lambda metrics: metrics["loss"].item(),
    )


def _put(batch: Mapping[str, np.ndarray], model: torch.nn.Module) -> dict[str, Tensor]:
    """This process's rows on the device of the model."""
    device = next(model.parameters()).device
    # A copy, for grain's arrays can't be written to, and PyTorch warns of that.
    return {name: torch.from_numpy(np.array(value)).to(device, non_blocking=True) for name, value in batch.items()}


def _kinds(state: TrainState) -> list[Params]:
    """The last parameters and statistics, and the averaged ones if there are any."""
    last = {**state.params, **state.statistics}
    return [last] if state.ema is None else [last, state.ema]


def _evaluation(trainer: Trainer, tensors: Params, recipe: Recipe, inputs: Inputs) -> Evaluation:
    cast = mixed({name: value.detach() for name, value in tensors.items()}, getattr(torch, recipe.precision))
    return trainer.objective.evaluate(_bind(trainer, cast), inputs.test_batches(), parallel=processes()[1] > 1)


def _save_models(trainer: Trainer, state: TrainState, directory: Path, *, start: Start) -> None:
    """Writes the native checkpoint of the last parameters, and that of the averaged ones if there are any."""
    for tensors, name in zip(_kinds(state), (MODEL, MODEL_EMA), strict=False):
        _save_model(trainer, tensors, directory / name, start=start)


def _save_model(trainer: Trainer, tensors: Params, path: Path, *, start: Start) -> None:
    """The first process writes the tensors."""
    if processes()[0] == 0:
        model = trainer.objective.exported(_bind(trainer, tensors))
        save(model, path, name=start.name, source=start.source())


def _bind(trainer: Trainer, tensors: Params) -> Any:
    """A new module with these parameters and statistics."""
    model = trainer.objective.create(device="meta")
    model.load_state_dict(dict(tensors), assign=True)
    return model
