"""The directory of a run that Flax trains: checkpoints of its state. Twin: `vit_torch/run_checkpoints.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from parity.checkpoints import account, shapes_of
from parity.checkpoints.containers.orbax_directory import read_values
from parity.checkpoints.formats.run import CHECKPOINTS, DATA, STATE, checkpoint, framework_of
from parity.configs import Config
from parity.recipes import Recipe
from parity.runs import TrainingState
from parity.runs.directory import KEPT, check, claim
from parity.runs.origin import Origin
from parity.runs.read_training import read_training

from .objectives import make_objective
from .optim import with_moments
from .sharding import make_mesh
from .stacks import stacked_like, unstacked_state
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
            claim(path, recipe, config, origin=origin, layouts=partial(_layouts, recipe, config))
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
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(_saved(state)), data=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=arguments)
        return _restored(restored[STATE], state), restored[DATA]

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Writes a checkpoint in the background; the state may be donated as soon as this returns.

        Args:
            step: Steps that were made.
            state: The state after them.
            position: The position of the data iterator, JSON values that are the same in every process.
        """
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(_saved(state)), data=ocp.args.JsonSave(position))
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
        trainer: The trainer of this run, of the same model and optimiser; its mesh may be another.
        recipe: The recipe of this run.

    Raises:
        CheckpointError: The same as from `parity.bridge.read_training`.
    """
    abstract = trainer.abstract_state()
    if framework_of(path) == "flax":
        found = checkpoint(path).absolute()
        with ocp.StandardCheckpointer() as checkpointer:  # each device's part alone is read
            state = checkpointer.restore(found / STATE, _saved(abstract))
        return _restored(state, abstract), read_values(found / DATA)
    saved = read_training(path)
    state = _in_flax(dataclasses.replace(saved, recipe=recipe), trainer.model, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        state,
        trainer.shardings,
    )
    return placed, dict(saved.data)


def _in_flax(state: TrainingState, model: nnx.Module, abstract: TrainState) -> TrainState:
    """A state in the Flax layout, still NumPy arrays.

    Args:
        state: The state in the canonical layout.
        model: The model, which gives the rules and may be abstract.
        abstract: Shapes and types of what it becomes.
    """
    whole, abstract = abstract, unstacked_state(abstract)
    leaves = {name: (rule, variable.shape) for name, variable, rule, _ in named_leaves(model)}
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract.opt_state)

    def in_flax(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, Any]:
        found = {}
        for name in names:
            rule, shape = leaves.get(name, (None, ()))
            found[name] = rule.from_canonical(arrays[name], shape) if rule else np.asarray(arrays[name])
        return found

    moments = {kind: in_flax(moment, abstract.params) for kind, moment in state.moments.items()}
    carried = {group: in_flax(values, values) for group, values in state.carried.items()}
    shapes = [shapes_of(_flat(groups)) for groups in (abstract.carried, carried)]
    account(*shapes, source="carried")
    found = TrainState(
        step=np.asarray(state.step, np.int32),
        params=in_flax(state.params, abstract.params),
        opt_state=with_moments(empty, state.step, moments),
        ema=None if state.ema is None else in_flax(state.ema, leaves),
        statistics=in_flax(state.params, abstract.statistics),
        carried=carried,
    )
    return stacked_like(found, whole)


def _flat(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def _saved(state: TrainState) -> dict[str, Any]:
    """A state as its checkpoint holds it: statistics beside the parameters, and what is carried only if anything is."""
    state = unstacked_state(state)
    kept = {
        "step": state.step,
        "params": state.params | state.statistics,
        "opt_state": state.opt_state,
        "ema": state.ema,
    }
    return kept | ({"carried": state.carried} if state.carried else {})


def _restored(kept: dict[str, Any], abstract: TrainState) -> TrainState:
    """The inverse of `_saved`, for a state like an abstract one."""
    each = unstacked_state(abstract)
    params, statistics = ({name: kept["params"][name] for name in part} for part in (each.params, each.statistics))
    return stacked_like(TrainState(**(kept | {"params": params, "statistics": statistics})), abstract)


def _abstract(recipe: Recipe, config: Config) -> tuple[nnx.Module, TrainState]:
    """The model and the state of a run without memory, on one device: Orbax doesn't keep what the mesh was."""
    with jax.enable_x64(recipe.precision == "float64"):
        trainer = make_trainer(recipe, config, make_mesh(data=1, devices=jax.devices()[:1]))
        return trainer.model, trainer.abstract_state()


def _layouts(recipe: Recipe, config: Config) -> dict[str, str]:
    """How each array of what is trained is laid out, by canonical name, as `Leaf` says it."""
    model = nnx.eval_shape(lambda: make_objective(recipe, config).create(rngs=nnx.Rngs(params=0)))
    return {name: rule.layout for name, _, rule, _ in named_leaves(model)}
