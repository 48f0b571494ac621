"""Training: a recipe and a directory in, a trained model out. Twin: `vit_torch/train.py`.

The directory holds `recipe.json`, `model.json` (what it trains), `init.json` (what it started from, if not from values
of the seed), `frozen.json` (which models help, if any), `metrics.jsonl`, `tensorboard/`, `checkpoints/` (Orbax: state
and position in the data) and, at the end, `model/`, a native checkpoint that either framework loads, and `model_ema/`
of the averaged parameters, if there are any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from parity.recipes import Recipe
from parity.runs.directory import check
from parity.runs.frozen import record_frozen
from parity.runs.inputs import Inputs, due
from parity.runs.metrics import Reporter
from parity.runs.start import Start

from . import random
from .checkpoint import save
from .evaluate import Evaluation
from .functional import Params, bind
from .run_checkpoints import RunDirectory
from .sharding import check_batch_size, make_mesh, process_rows, put_batch
from .stacks import unstacked
from .start import first_state
from .train_step import Metrics, Trainer, TrainState, make_trainer, mixed

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
    devices: Sequence[jax.Device] | None = None,
    on_step: OnStep | None = None,
    console: Console | None = None,
) -> Result:
    """Trains a model, or goes on where an earlier call was interrupted.

    With several processes, call `jax.distributed.initialize` first and this function in each of them, with one
    directory that all can write.

    Args:
        recipe: The recipe of the run.
        directory: The directory of the run.
        resume: Whether to go on with a run that is there; if not, none may be there.
        stop_at: Ends the call after this step, with a checkpoint to go on from and without `model/`; the schedule stays
            the recipe's.
        data_dir: Where TFDS sets are kept.
        devices: The devices to train on; all of them by default.
        on_step: Called after each step with its number, from 1, and its metrics, which may still be being computed.
        console: Where the progress bar is printed; None prints nothing.

    Raises:
        ValueError: The directory holds another run (the fields that differ are named), the mesh doesn't fit the devices
            or the batch, or the data doesn't fit the model.
    """
    started = time.perf_counter()
    directory = Path(directory)
    mesh = make_mesh(**asdict(recipe.mesh), devices=devices)
    check_batch_size(recipe.batch_size // recipe.accumulate, mesh)
    check(directory, recipe, resume=resume, framework="flax")
    is_first, rows = jax.process_index() == 0, process_rows(mesh, recipe.batch_size)
    inputs = Inputs(recipe, data_dir, directory=directory, rows=rows, is_first=is_first)
    kept = RunDirectory(directory, recipe, inputs.config, resume=resume, origin=inputs.start.origin)
    if is_first:
        record_frozen(directory, inputs.frozen)
    with kept as run, _numerics(recipe), jax.set_mesh(mesh):
        trainer = make_trainer(recipe, inputs.config, mesh, inputs.frozen)
        with closing(inputs.train_batches()) as batches:
            last = recipe.steps if stop_at is None else min(stop_at, recipe.steps)
            session = _Session(recipe, last, trainer, run, inputs, batches, on_step)
            state = session.start()
            first = int(state.step)
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
        restored = self.run.restore(self.trainer.abstract_state())
        taken = restored or first_state(self.trainer, self.inputs.start)
        if taken is None:
            return self.trainer.init(self.recipe.seed)
        state, position = taken
        if position is not None:
            self.batches.set_state(position)
        if restored is None:  # what the run starts from is read once, and may then go
            self.run.save(int(state.step), state, self.batches.get_state())
        return state

    def finish(self, state: TrainState, first: int, reporter: Reporter) -> tuple[TrainState, Evaluation]:
        """Makes the steps that are left and evaluates the last parameters."""
        recipe, key, evaluation = self.recipe, self._key(), None
        for step in range(first + 1, self.last + 1):
            state, metrics = self.trainer.step(state, put_batch(next(self.batches), self.trainer.mesh), key)
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


@contextmanager
def _numerics(recipe: Recipe) -> Iterator[None]:
    """float64 needs x64; and what is called float32 shall not be multiplied in bfloat16, as a TPU does by default."""
    highest = "highest" if recipe.precision == "float32" else None
    with jax.enable_x64(recipe.precision == "float64"), jax.default_matmul_precision(highest):
        yield


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
        main=jax.process_index() == 0,
        wait=jax.block_until_ready,
    )


def _kinds(state: TrainState) -> list[Params]:
    """The last parameters and statistics, and the averaged ones if there are any, each by its own name."""
    last = unstacked(state.params | state.statistics)
    return [last] if state.ema is None else [last, unstacked(state.ema)]


def _evaluation(trainer: Trainer, tensors: Params, recipe: Recipe, inputs: Inputs) -> Evaluation:
    model = bind(trainer.model, mixed(tensors, recipe.precision), tensors)
    return trainer.objective.evaluate(model, inputs.test_batches(), mesh=trainer.mesh)


def _save_models(trainer: Trainer, state: TrainState, directory: Path, *, start: Start) -> None:
    """Writes the native checkpoint of the last parameters, and that of the averaged ones if there are any."""
    for tensors, name in zip(_kinds(state), (MODEL, MODEL_EMA), strict=False):
        _save_model(trainer, tensors, directory / name, start=start)


def _save_model(trainer: Trainer, tensors: Params, path: Path, *, start: Start) -> None:
    """Gathers the tensors one by one, and the first process writes them."""
    gathered = {}
    for key, value in tensors.items():
        whole = value if jax.process_count() == 1 else multihost_utils.process_allgather(value, tiled=True)
        gathered[key] = np.asarray(whole)
    if jax.process_index() == 0:
        model = trainer.objective.exported(bind(trainer.model, gathered, gathered))
        save(model, path, name=start.name, source=start.source())
