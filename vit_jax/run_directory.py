"""The directory of a run: its recipe and its Orbax checkpoints, written by training and read as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx

from parity.checkpoints import Checkpoint, CheckpointError, Tensors
from parity.recipes import Recipe, differences, from_dict, to_dict

from .models import create_model
from .state import named_leaves
from .train_step import TrainState

RECIPE = "recipe.json"
CHECKPOINTS = "checkpoints"
_KEPT = 2


class RunDirectory:
    """Checks that a directory is free or holds the same run, then keeps the run's checkpoints in it.

    Args:
        path: Of the directory; made if it isn't there.
        recipe: Of the run.
        resume: Whether a run that is there may go on.

    Raises:
        ValueError: There is a run of another recipe (names the fields that differ), a run at all without `resume`, or
            something that is no run.
    """

    def __init__(self, path: Path, recipe: Recipe, *, resume: bool):
        _check(path, recipe, resume=resume)
        path.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            temporary = path / f"{RECIPE}.tmp"
            temporary.write_text(json.dumps(to_dict(recipe), indent=2) + "\n")
            temporary.replace(path / RECIPE)
        # Orbax saves in the background and renames when it is done, so a killed run leaves whole checkpoints.
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT)
        self._manager = ocp.CheckpointManager(path.absolute() / CHECKPOINTS, options=options)

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and position in the data of the latest checkpoint, or None if there is none.

        Args:
            abstract: Shapes, types and shardings; those of another mesh than before are fine.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=arguments)
        return restored["state"], restored["data"]

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


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a run's directory.

    Raises:
        ValueError: There is none, or it is not a recipe; names the file.
    """
    file = Path(path) / RECIPE
    try:
        return from_dict(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not the recipe of a run: {error}") from error


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
    try:
        recipe = read_recipe(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    steps = sorted(int(child.name) for child in (path / CHECKPOINTS).glob("*") if child.name.isdigit())
    if not steps or (step is not None and step not in steps):
        got = "the latest" if step is None else step
        raise CheckpointError(f"{path / CHECKPOINTS}: step: got {got}, expected one of {steps}")
    step = steps[-1] if step is None else step
    tensors = RunTensors(path / CHECKPOINTS / str(step) / "state", "ema" if ema else "params", recipe)
    source = {"format": "orbax", "path": str(path), "step": step, "ema": ema}
    return Checkpoint(path, tensors.config, recipe.model, source, tensors)


class RunTensors(Tensors):
    """The parameters in an Orbax checkpoint, by canonical name and in canonical layout, each read when it is asked for.

    Args:
        path: Of the state's directory.
        part: Of the state: `params`, or `ema`.
        recipe: Of the run.

    Raises:
        CheckpointError: No readable Orbax checkpoint, or one without that part.
    """

    def __init__(self, path: Path, part: str, recipe: Recipe):
        self.path, self._part = path, part
        self._handler = ocp.PyTreeCheckpointHandler()
        try:
            found = self._handler.metadata(epath.Path(path)).tree
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not a readable Orbax checkpoint: {error}") from None
        if part not in found:
            raise CheckpointError(f"{path}: got {', '.join(found)}, expected {part} among them")
        self._found = found[part]
        head = self._found.get("head.weight")
        self.config = recipe.config(head.shape[-1] if head is not None else None)
        model = nnx.eval_shape(lambda: create_model(self.config, rngs=nnx.Rngs(0)))
        self._rules = {name: rule for name, _, rule, _ in named_leaves(model)}

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one parameter."""
        found = self._found[name]
        arguments = ocp.args.PyTreeRestore(
            item={self._part: {name: found}},
            restore_args={self._part: {name: ocp.RestoreArgs(restore_type=np.ndarray)}},
            partial_restore=True,
        )
        value = self._handler.restore(epath.Path(self.path), args=arguments)[self._part][name]
        return np.ascontiguousarray(self._rules[name].to_canonical(value) if name in self._rules else value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of each parameter; reads none."""
        return {
            name: self._rules[name].canonical_shape(found.shape) if name in self._rules else tuple(found.shape)
            for name, found in self._found.items()
        }

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each parameter; reads none."""
        return {name: np.dtype(found.dtype) for name, found in self._found.items()}


def _check(path: Path, recipe: Recipe, *, resume: bool) -> None:
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / RECIPE).exists():
        raise ValueError(f"{path}: holds files but no run, expected an empty directory or a run to go on with")
    different = differences(read_recipe(path), recipe)
    if different:
        raise ValueError(
            f"{path}: holds a run of another recipe; choose another directory\n  " + "\n  ".join(different)
        )
    if not resume:
        raise ValueError(f"{path}: holds this run already; resume it, or choose another directory")
