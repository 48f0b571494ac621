"""The directory of a run: its recipe and its Orbax checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from parity.recipes import Recipe, differences, from_dict, to_dict

from .train_step import TrainState

RECIPE = "recipe.json"
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
        self._manager = ocp.CheckpointManager(path.absolute() / "checkpoints", options=options)

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
