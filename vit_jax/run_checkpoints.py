"""The directory of a run that Flax trains: checkpoints of its state. Twin: `vit_torch/run_checkpoints.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils

from parity import runs
from parity.checkpoints import Checkpoint, CheckpointError, Tensors, account
from parity.checkpoints.accounting import LINES, cut
from parity.configs import Config
from parity.recipes import Recipe
from parity.runs import TrainingState
from parity.runs.directory import CHECKPOINTS, KEPT, STATE, check, checkpoint, claim, framework_of, read_recipe
from parity.runs.origin import Origin, model_of, read_origin

from .models import Model, create_model
from .optim import moments_of, with_moments
from .sharding import make_mesh
from .state_dict import named_leaves
from .train_step import Trainer, TrainState, make_trainer

DATA = "data"


class RunDirectory:
    """Checks that a directory is free or holds the same run, then keeps the run's checkpoints in it.

    Args:
        path: Of the directory; made if it isn't there.
        recipe: Of the run.
        resume: Whether a run that is there may go on.
        origin: What a run that isn't there yet starts from, if not from values of the seed.

    Raises:
        ValueError: There is a run of another recipe (names the fields that differ) or of the other framework, a run at
            all without `resume`, or something that is no run.
    """

    def __init__(self, path: Path, recipe: Recipe, *, resume: bool, origin: Origin | None = None):
        check(path, recipe, resume=resume, framework="flax")
        if jax.process_count() > 1:  # what the first process writes would be another's find
            multihost_utils.sync_global_devices("the run's directory is checked")
        if jax.process_index() == 0:
            claim(path, recipe, origin)
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
            state: After them.
            position: Of the data iterator, JSON values that are the same in every process.
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


def read_training(path: Path, *, step: int | None = None) -> TrainingState:
    """The state of a run in the canonical layout, on one machine, whatever mesh wrote it.

    Args:
        path: Of the run.
        step: Of which checkpoint; the latest by default.

    Raises:
        CheckpointError: No run, no checkpoint of that step, or one of other arrays or counters, all in one report.
    """
    recipe, found = read_recipe(path), checkpoint(path, step).absolute()
    params = _RunTensors(path, found / STATE, "params")
    _, abstract = _abstract(recipe, params.config)
    state = _read_state(found / STATE, abstract)
    number = int(found.name)
    counts = {name: leaf for name, leaf in _by_name(state).items() if np.issubdtype(leaf.dtype, np.integer)}
    wrong = [f"{name}: got {count}" for name, count in counts.items() if count != number]
    if wrong:
        what = f"expected {number}, the step, of each counter"
        raise CheckpointError(f"{found / STATE}: {what}\n  {cut(wrong, between=LINES)}")

    def canonical(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(params.rules[name].to_canonical(value)) for name, value in arrays.items()}

    return TrainingState(
        recipe=recipe,
        step=number,
        params=canonical(state.params),
        moments={kind: canonical(moment) for kind, moment in moments_of(state.opt_state).items()},
        ema=None if state.ema is None else canonical(state.ema),
        data=_position(found),
        origin=read_origin(path, recipe),
    )


def write_training(state: TrainingState, directory: Path) -> None:
    """Makes a run of a state, from which training goes on over any mesh.

    Args:
        state: Of the run, checked.
        directory: Of the new run.
    """
    model, abstract = _abstract(state.recipe, state.config())
    written = _in_flax(state, model, abstract)
    with RunDirectory(directory, state.recipe, resume=False, origin=state.origin) as run:
        run.save(state.step, written, dict(state.data))


def read_state(path: Path, trainer: Trainer, recipe: Recipe) -> tuple[TrainState, dict[str, Any]]:
    """The state where another run ended, whichever framework trained it, and its position in the data.

    Args:
        path: Of that run.
        trainer: Of this run, of the same model and optimiser; its mesh may be another.
        recipe: Of this run.

    Raises:
        CheckpointError: As `parity.runs.read_training`.
    """
    abstract = trainer.abstract_state()
    if framework_of(path) == "flax":
        found = checkpoint(path).absolute()
        with ocp.StandardCheckpointer() as checkpointer:  # each device's part alone is read
            state = checkpointer.restore(found / STATE, abstract)
        return state, _position(found)
    saved = runs.read_training(path)
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
        state: In the canonical layout.
        model: Gives the rules; may be abstract.
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


def read_run(path: str | Path, *, step: int | None = None, ema: bool = False) -> Checkpoint:
    """A run as a checkpoint: the config of its recipe, and the parameters after one of its steps.

    Args:
        path: Of the run.
        step: Of which checkpoint; the latest by default.
        ema: Whether to read the averaged parameters.

    Raises:
        CheckpointError: No run, no checkpoint of that step, or none with averaged parameters; names the file.
    """
    path = Path(path).absolute()
    found = checkpoint(path, step)
    tensors = _RunTensors(path, found / STATE, "ema" if ema else "params")
    source = {"format": "orbax", "path": str(path), "step": int(found.name), "ema": ema}
    return Checkpoint(path, tensors.config, tensors.name, source, tensors)


class _RunTensors(Tensors):
    """The parameters in an Orbax checkpoint, by canonical name and in canonical layout, each read when it is asked for.

    Args:
        run: Its directory.
        path: Of the state's directory.
        part: Of the state: `params`, or `ema`.

    Attributes:
        config: Of the model.
        name: The registered name that the model began as; empty if none.
        rules: Of the layout of each parameter.

    Raises:
        CheckpointError: No readable Orbax checkpoint, or one without that part.
    """

    def __init__(self, run: Path, path: Path, part: str):
        self.path, self._part = path, part
        self._handler = ocp.PyTreeCheckpointHandler()
        found = {name: tree for name, tree in _metadata(path).items() if tree is not None}
        if part not in found:
            raise CheckpointError(f"{path}: got {', '.join(found)}, expected {part} among them")
        self._found = found[part]
        head = self._found.get("head.weight")
        num_classes = None if head is None else head.shape[-1]
        self.config, self.name = model_of(run, read_recipe(run), num_classes=num_classes)
        model = nnx.eval_shape(lambda: create_model(self.config, rngs=nnx.Rngs(0)))
        self.rules = {name: rule for name, _, rule, _ in named_leaves(model)}

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one parameter."""
        found = self._found[name]
        arguments = ocp.args.PyTreeRestore(
            item={self._part: {name: found}},
            restore_args={self._part: {name: ocp.RestoreArgs(restore_type=np.ndarray)}},
            partial_restore=True,
        )
        value = self._handler.restore(epath.Path(self.path), args=arguments)[self._part][name]
        return np.ascontiguousarray(self.rules[name].to_canonical(value) if name in self.rules else value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of each parameter; reads none."""
        return {
            name: self.rules[name].canonical_shape(found.shape) if name in self.rules else tuple(found.shape)
            for name, found in self._found.items()
        }

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each parameter; reads none."""
        return {name: np.dtype(found.dtype) for name, found in self._found.items()}


def _position(found: Path) -> dict[str, Any]:
    """In the data, of a checkpoint."""
    return dict(ocp.JsonCheckpointHandler().restore(epath.Path(found / DATA)))


def _abstract(recipe: Recipe, config: Config) -> tuple[Model, TrainState]:
    """The model and the state of a run without memory, on one device: Orbax doesn't keep what the mesh was."""
    with jax.enable_x64(recipe.precision == "float64"):
        trainer = make_trainer(recipe, config, make_mesh(data=1, devices=jax.devices()[:1]))
        return trainer.model, trainer.abstract_state()


def _metadata(path: Path) -> Any:
    """The tree of an Orbax checkpoint, with what it says of each array in the array's place."""
    try:
        return ocp.PyTreeCheckpointHandler().metadata(epath.Path(path)).tree
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable Orbax checkpoint: {error}") from None


def _read_state(path: Path, abstract: TrainState) -> TrainState:
    """The state of an Orbax checkpoint as NumPy arrays, held against the arrays that it should have."""
    tree = _metadata(path)
    expected, found = _by_name(abstract), _by_name(tree)
    shapes = [{name: tuple(leaf.shape) for name, leaf in leaves.items()} for leaves in (expected, found)]
    account(*shapes, source=str(path))
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arguments = ocp.args.PyTreeRestore(item=tree, restore_args=numpy)
    values = _by_name(ocp.PyTreeCheckpointHandler().restore(epath.Path(path), args=arguments))
    return jax.tree.unflatten(jax.tree.structure(abstract), [values[name] for name in expected])


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves by their path, such as `opt_state.1.mu.head.weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
