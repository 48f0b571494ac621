"""The directory of a run that PyTorch trains: checkpoints of its state. Twin: `vit_jax/run_checkpoints.py`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity import outputs
from parity.checkpoints import account, shapes_of
from parity.checkpoints.formats.run import CHECKPOINTS, TORCH_DATA, TORCH_STATE, steps
from parity.configs import Config
from parity.recipes import Recipe
from parity.runs import TrainingState
from parity.runs.directory import KEPT, check, claim
from parity.runs.origin import Origin
from parity.runs.read_training import read_training

from .optim import learning_rate, set_learning_rate, with_moments
from .parallel import processes
from .state_dict import from_numpy
from .train_step import Trainer, TrainState, make_trainer

_TEMPORARY = ".tmp"


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
        check(path, recipe, resume=resume, framework="torch")
        rank, world = processes()
        if world > 1:  # what the first process writes would be another's find
            torch.distributed.barrier()
        self._path = path
        self._is_first = rank == 0
        if self._is_first:
            claim(path, recipe, config, origin=origin)
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            for left_behind in (path / CHECKPOINTS).glob(f"[0-9]*{_TEMPORARY}"):
                shutil.rmtree(left_behind)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and position in the data of the latest checkpoint, or None if there is none.

        Args:
            state: A state of the same recipe, on any device; changed in place.

        Raises:
            CheckpointError: A checkpoint of other tensors.
        """
        if not steps(self._path):
            return None
        saved = read_training(self._path)
        _fill(state, saved)
        return state, dict(saved.data)

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Writes a checkpoint, and removes all but the newest; the first process does it.

        Args:
            step: Steps that were made.
            state: The state after them.
            position: The position of the data iterator, JSON values that are the same in every process.
        """
        if not self._is_first:
            return
        folder = self._path / CHECKPOINTS
        new = folder / f"{step}{_TEMPORARY}"
        new.mkdir()
        torch.save(
            {
                "step": step,
                "params": {name: value.detach() for name, value in {**state.params, **state.statistics}.items()},
                "optimizer": state.opt_state.state_dict(),
                "ema": None if state.ema is None else dict(state.ema),
                "carried": {group: dict(values) for group, values in state.carried.items()},
            },
            new / TORCH_STATE,
        )
        (new / TORCH_DATA).write_text(json.dumps(position) + "\n")
        outputs.sync(new)
        # Names change when a checkpoint is whole and before it isn't any more, so a killed run leaves whole ones.
        new.rename(folder / str(step))
        for old in steps(self._path)[:-KEPT]:
            going = (folder / str(old)).rename(folder / f"{old}{_TEMPORARY}")
            shutil.rmtree(going)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Checkpoints are written when `save` returns; there is nothing to wait for."""


def write_training(state: TrainingState, directory: Path) -> None:
    """Makes a run of a state, from which training goes on on any device.

    Args:
        state: The state of the run, checked.
        directory: The directory of the new run.
    """
    config = state.config()
    written = make_trainer(state.recipe, config).load(state.params)
    _fill(written, state)
    with RunDirectory(directory, state.recipe, config, resume=False, origin=state.origin) as run:
        run.save(state.step, written, dict(state.data))


def read_state(path: Path, trainer: Trainer, recipe: Recipe) -> tuple[TrainState, dict[str, Any]]:
    """The state where another run ended, whichever framework trained it, and its position in the data.

    Args:
        path: The directory of that run.
        trainer: The trainer of this run, of the same model and optimiser; its device may be another.
        recipe: The recipe of this run.

    Raises:
        CheckpointError: The same as from `parity.bridge.read_training`.
    """
    saved = read_training(path)
    state = trainer.load(saved.params)
    _fill(state, dataclasses.replace(saved, recipe=recipe))
    return state, dict(saved.data)


def _fill(state: TrainState, saved: TrainingState) -> None:
    """Gives a state the values of another one that has been checked, and the optimiser the rate of its last step."""

    def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: from_numpy(np.asarray(value)) for name, value in arrays.items()}

    carried, arrays = _flat(state.carried), _flat(saved.carried)
    account({name: tuple(value.shape) for name, value in carried.items()}, shapes_of(arrays), source="carried")
    parts = (
        ({**state.params, **state.statistics}, saved.params),
        (state.ema or {}, saved.ema or {}),
        (carried, arrays),
    )
    with torch.no_grad():
        for targets, values in parts:
            for name, value in tensors(values).items():
                targets[name].copy_(value)
    with_moments(state.opt_state, saved.step, {kind: tensors(moment) for kind, moment in saved.moments.items()})
    recipe = saved.recipe
    set_learning_rate(state.opt_state, learning_rate(max(0, saved.step - 1), recipe.optimizer, steps=recipe.steps))
    state.step = saved.step


def _flat(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
