"""Training: a recipe and a directory in, a trained model out.

The directory holds `recipe.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` (Orbax: state and position in the
data) and, at the end, `model/`, a native checkpoint that either framework loads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from parity.configs import Config
from parity.data import Source, eval_batches, open_source, train_batches
from parity.recipes import Recipe

from . import random
from .checkpoint import save
from .evaluate import Evaluation, evaluate
from .functional import bind
from .metrics import Reporter
from .run_directory import RunDirectory
from .sharding import batch_sharding, check_batch_size, make_mesh
from .train_step import Metrics, Trainer, TrainState, make_trainer

OnStep = Callable[[int, Metrics], None]
MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        directory: Of the run.
        model: Directory of the native checkpoint.
        evaluation: Of the last parameters on the test split.
        steps: Steps that this call made: fewer than the recipe's if it resumed.
        seconds: That this call took.
    """

    directory: Path
    model: Path
    evaluation: Evaluation
    steps: int
    seconds: float


def train(
    recipe: Recipe,
    directory: str | Path,
    *,
    resume: bool = True,
    data_dir: str | Path | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_step: OnStep | None = None,
    console: Console | None = None,
) -> Result:
    """Trains a model, or goes on where an earlier call was interrupted.

    With several processes, call `jax.distributed.initialize` first and this function in each of them, with one
    directory that all can write.

    Args:
        recipe: What to do.
        directory: Of the run.
        resume: Whether to go on with a run that is there; if not, none may be there.
        data_dir: Where TFDS sets are kept.
        devices: To train on; all of them by default.
        on_step: Called after each step with its number, from 1, and its metrics, which may still be being computed.
        console: For the progress bar; None prints nothing.

    Raises:
        ValueError: The directory holds another run (the fields that differ are named), the mesh doesn't fit the devices
            or the batch, or the data doesn't fit the model.
    """
    started = time.perf_counter()
    directory = Path(directory)
    mesh = make_mesh(**asdict(recipe.mesh), devices=devices)
    check_batch_size(recipe.batch_size, mesh)
    splits = recipe.data.train_split, recipe.data.test_split
    source, test_source = (open_source(recipe.data.name, split, data_dir=data_dir) for split in splits)
    config = _config(recipe, source)
    with RunDirectory(directory, recipe, resume=resume) as run, _numerics(recipe), jax.set_mesh(mesh):
        trainer = make_trainer(recipe, config, mesh)
        with closing(_train_batches(recipe, config, source)) as batches:
            session = _Session(recipe, trainer, run, batches, test_source, on_step)
            state = session.start()
            first = int(state.step)
            with _reporter(recipe, directory, first=first, console=console) as reporter:
                state, evaluation = session.finish(state, first, reporter)
        _save_model(trainer, state, directory / MODEL, name=recipe.model)
    return Result(
        directory=directory,
        model=directory / MODEL,
        evaluation=evaluation,
        steps=recipe.steps - first,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Session:
    """What one call of `train` works with."""

    recipe: Recipe
    trainer: Trainer
    run: RunDirectory
    batches: Any
    test_source: Source
    on_step: OnStep | None

    def start(self) -> TrainState:
        """The state of the latest checkpoint, with the data where it was, or the first state."""
        restored = self.run.restore(self.trainer.abstract_state())
        if restored is None:
            return self.trainer.init(self._keys()[0])
        state, position = restored
        self.batches.set_state(position)
        return state

    def finish(self, state: TrainState, first: int, reporter: Reporter) -> tuple[TrainState, Evaluation]:
        """Makes the steps that are left and evaluates the last parameters."""
        recipe, key, evaluation = self.recipe, self._keys()[1], None
        for step in range(first + 1, recipe.steps + 1):
            state, metrics = self.trainer.step(state, _put(next(self.batches), self.trainer.mesh), key)
            reporter.step(step, metrics)
            if self.on_step is not None:
                self.on_step(step, metrics)
            if _due(step, recipe.eval_every, recipe.steps):
                evaluation = _evaluate(self.trainer, state, recipe, self.test_source)
                reporter.evaluation(step, accuracy=evaluation.accuracy, loss=evaluation.loss)
            if _due(step, recipe.checkpoint_every, recipe.steps):
                self.run.save(step, state, self.batches.get_state())
                reporter.pause()
        # A run that was complete before made no step here.
        return state, evaluation or _evaluate(self.trainer, state, recipe, self.test_source)

    def _keys(self) -> list[Any]:
        """Of the initial parameters, and of the steps."""
        return list(random.split(random.key(self.recipe.seed), 2))


def _config(recipe: Recipe, source: Source) -> Config:
    """The model's config, with the classes of the data."""
    config = recipe.config(source.num_classes)
    for field, got in (("num_classes", source.num_classes), ("in_chans", source.in_chans)):
        expected = getattr(config, field)
        if got != expected:
            raise ValueError(
                f"{field}: {source.name} has {got}, and {recipe.model} with the recipe's overrides {expected}"
            )
    return config


@contextmanager
def _numerics(recipe: Recipe) -> Iterator[None]:
    """float64 needs x64; and what is called float32 shall not be multiplied in bfloat16, as a TPU does by default."""
    highest = "highest" if recipe.precision == "float32" else None
    with jax.enable_x64(recipe.precision == "float64"), jax.default_matmul_precision(highest):
        yield


def _train_batches(recipe: Recipe, config: Config, source: Source) -> Any:
    return train_batches(
        source,
        batch_size=recipe.batch_size,
        image_size=config.image_size,
        preprocessing=config.preprocessing,
        augmentation=recipe.data.augmentation,
        seed=recipe.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=recipe.data.num_threads,
        num_workers=recipe.data.num_workers,
    )


def _reporter(recipe: Recipe, directory: Path, *, first: int, console: Console | None) -> Reporter:
    return Reporter(
        directory,
        first=first,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        log_every=recipe.log_every,
        console=console,
    )


def _put(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """This process's rows as their part of the global batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def _evaluate(trainer: Trainer, state: TrainState, recipe: Recipe, source: Source) -> Evaluation:
    """Evaluates in the precision of the training."""
    config = trainer.model.config
    batches = eval_batches(
        source,
        batch_size=recipe.batch_size,
        image_size=config.image_size,
        preprocessing=config.preprocessing,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    params = {name: value.astype(jnp.dtype(recipe.precision)) for name, value in state.params.items()}
    return evaluate(bind(trainer.model, params), batches, mesh=trainer.mesh)


def _save_model(trainer: Trainer, state: TrainState, path: Path, *, name: str) -> None:
    """Gathers the parameters one by one, and the first process writes them."""
    gathered = {}
    for key, value in state.params.items():
        whole = value if jax.process_count() == 1 else multihost_utils.process_allgather(value, tiled=True)
        gathered[key] = np.asarray(whole)
    if jax.process_index() == 0:
        save(bind(trainer.model, gathered), path, name=name)


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)
