"""The directory of a run that Flax trains: checkpoints of its state. Twin: `vit_torch/run_checkpoints.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from parity.checkpoints.containers.orbax_directory import read_values
from parity.checkpoints.formats.run import CHECKPOINTS, DATA, STATE, checkpoint, framework_of
from parity.configs import Config
from parity.recipes import Recipe
from parity.runs import TrainingState
from parity.runs.directory import KEPT, check, claim
from parity.runs.origin import Origin
from parity.runs.read_training import read_training

from .models import Model, create_model
from .optim import with_moments
from .sharding import make_mesh
from .state_dict import named_leaves
from .train_step import Trainer, TrainState, make_trainer


class RunDirectory:
    """Checks that a directory is free or holds the same run, then keeps the run's checkpoints in it.

    Args:
        path: The directory; made if it isn't there.
        recipe: The recipe of the run.
        config: The model's config, with the classes of the data.
        resume: Whether a run that is there may go on.
        origin: What a run that isn't there yet starts from, if not from values of the seed.

    Raises:
        ValueError: There is a run of another recipe (names the fields that differ) or of the other framework, a run at
            all without `resume`, or something that is no run.
    """

    def __init__(self, path: Path, recipe: Recipe, config: Config, *, resume: bool, origin: Origin | None = None):
        check(path, recipe, resume=resume, framework="flax")
        if jax.process_count() > 1:  # what the first process writes would be another's find
            multihost_utils.sync_global_devices("the run's directory is checked")
        if jax.process_index() == 0:
            claim(path, recipe, config, origin=origin, layouts=partial(_layouts, config))
        # Orbax saves in the background and renames when it is done, so a killed run leaves whole checkpoints.
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT)
        self._manager = ocp.CheckpointManager(path.absolute() / CHECKPOINTS, options=options)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and position in the data of the latest checkpoint, or None if there is none.

        Args:
            state: Shapes, types and shardings; those of another mesh than before are fine.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(state), data=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=arguments)
        return restored[STATE], restored[DATA]

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Writes a checkpoint in the background; the state may be donated as soon as this returns.

        Args:
            step: Steps that were made.
            state: The state after them.
            position: The position of the data iterator, JSON values that are the same in every process.
        """
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position))
        self._manager.save(step, args=arguments)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for the checkpoint that is being written."""
        self._manager.close()


def write_training(state: TrainingState, directory: Path) -> None:
    """Makes a run of a state, from which training goes on over any mesh.

    Args:
        state: The state of the run, checked.
        directory: The directory of the new run.
    """
    config = state.config()
    model, abstract = _abstract(state.recipe, config)
    written = _in_flax(state, model, abstract)
    with RunDirectory(directory, state.recipe, config, resume=False, origin=state.origin) as run:
        run.save(state.step, written, dict(state.data))


def read_state(path: Path, trainer: Trainer, recipe: Recipe) -> tuple[TrainState, dict[str, Any]]:
    """The state where another run ended, whichever framework trained it, and its position in the data.

    Args:
        path: The directory of that run.
        trainer: This run's, of the same model and optimiser; its mesh may be another.
        recipe: The recipe of this run.

    Raises:
        CheckpointError: As `parity.bridge.read_training`.
    """
    abstract = trainer.abstract_state()
    if framework_of(path) == "flax":
        found = checkpoint(path).absolute()
        with ocp.StandardCheckpointer() as checkpointer:  # each device's part alone is read
            state = checkpointer.restore(found / STATE, abstract)
        return state, read_values(found / DATA)
    saved = read_training(path)
    state = _in_flax(dataclasses.replace(saved, recipe=recipe), trainer.model, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        state,
        trainer.shardings,
    )
    return placed, dict(saved.data)


def _in_flax(state: TrainingState, model: Model, abstract: TrainState) -> TrainState:
    """A state in the Flax layout, still NumPy arrays.

    Args:
        state: The state in the canonical layout.
        model: The model, which gives the rules and may be abstract.
        abstract: Shapes and types of what it becomes.
    """
    leaves = {name: (rule, variable.shape) for name, variable, rule, _ in named_leaves(model)}
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract.opt_state)

    def in_flax(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {
            name: np.ascontiguousarray(rule.from_canonical(arrays[name], shape))
            for name, (rule, shape) in leaves.items()
        }

    return TrainState(
        step=np.asarray(state.step, np.int32),
        params=in_flax(state.params),
        opt_state=with_moments(empty, state.step, {kind: in_flax(moment) for kind, moment in state.moments.items()}),
        ema=None if state.ema is None else in_flax(state.ema),
    )


def _abstract(recipe: Recipe, config: Config) -> tuple[Model, TrainState]:
    """The model and the state of a run without memory, on one device: Orbax doesn't keep what the mesh was."""
    with jax.enable_x64(recipe.precision == "float64"):
        trainer = make_trainer(recipe, config, make_mesh(data=1, devices=jax.devices()[:1]))
        return trainer.model, trainer.abstract_state()


def _layouts(config: Config) -> dict[str, str]:
    """How each array of a model is laid out, by canonical name, as `Leaf` says it."""
    model = nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0)))
    return {name: rule.layout for name, _, rule, _ in named_leaves(model)}
