"""The directory of a run that PyTorch trains: checkpoints of its state. Twin: `vit_jax/run_checkpoints.py`."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity import outputs, runs
from parity.checkpoints import CheckpointError
from parity.checkpoints.accounting import LINES, cut
from parity.checkpoints.containers.document import read_json
from parity.recipes import Recipe
from parity.runs import TrainingState
from parity.runs.directory import (
    CHECKPOINTS,
    KEPT,
    TORCH_DATA,
    TORCH_STATE,
    check,
    checkpoint,
    claim,
    read_recipe,
    steps,
)
from parity.runs.origin import Origin, read_origin

from . import random
from .optim import MOMENTS, learning_rate, set_learning_rate, with_moments
from .parallel import processes
from .state_dict import from_numpy, to_numpy
from .train_step import Trainer, TrainState, make_trainer

_TEMPORARY = ".tmp"


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
        check(path, recipe, resume=resume, framework="torch")
        rank, world = processes()
        if world > 1:  # what the first process writes would be another's find
            torch.distributed.barrier()
        self._path = path
        self._is_first = rank == 0
        if self._is_first:
            claim(path, recipe, origin)
            (path / CHECKPOINTS).mkdir(exist_ok=True)
            for left_behind in (path / CHECKPOINTS).glob(f"[0-9]*{_TEMPORARY}"):
                shutil.rmtree(left_behind)

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and position in the data of the latest checkpoint, or None if there is none.

        Args:
            state: Of the same recipe, on any device; changed in place.

        Raises:
            CheckpointError: A checkpoint of other tensors.
        """
        if not steps(self._path):
            return None
        saved = read_training(self._path)
        saved.check(source=str(checkpoint(self._path)))
        _fill(state, saved)
        return state, dict(saved.data)

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Writes a checkpoint, and removes all but the newest; the first process does it.

        Args:
            step: Steps that were made.
            state: After them.
            position: Of the data iterator, JSON values that are the same in every process.
        """
        if not self._is_first:
            return
        folder = self._path / CHECKPOINTS
        new = folder / f"{step}{_TEMPORARY}"
        new.mkdir()
        torch.save(
            {
                "step": step,
                "params": {name: value.detach() for name, value in state.params.items()},
                "optimizer": state.opt_state.state_dict(),
                "ema": None if state.ema is None else dict(state.ema),
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


def read_training(path: Path, *, step: int | None = None) -> TrainingState:
    """The state of a run in the canonical layout, in memory.

    Args:
        path: Of the run.
        step: Of which checkpoint; the latest by default.

    Raises:
        CheckpointError: No run, no checkpoint of that step, or one whose files or counters aren't what they should be.
    """
    recipe, found = read_recipe(path), checkpoint(path, step)
    file = found / TORCH_STATE
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        data = read_json(found / TORCH_DATA)
        moments, counts = _moments(saved["optimizer"], MOMENTS[recipe.optimizer.name])
        params, ema = _arrays(saved["params"]), None if saved["ema"] is None else _arrays(saved["ema"])
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{found}: not a sound checkpoint of training in PyTorch: {error}") from None
    counts = {"step": saved["step"], **counts}
    wrong = [f"{name}: got {count}" for name, count in counts.items() if count != int(found.name)]
    if wrong:
        what = f"expected {found.name}, the step, of each counter"
        raise CheckpointError(f"{file}: {what}\n  {cut(wrong, between=LINES)}")
    if saved["step"] == 0 or (recipe.optimizer.name == "sgd" and not recipe.optimizer.momentum):
        # optax keeps zeros from the start and a sum that nothing reads, and PyTorch only what it was given.
        for moment in MOMENTS[recipe.optimizer.name]:
            moments.setdefault(moment, {name: np.zeros_like(value) for name, value in params.items()})
    return TrainingState(
        recipe=recipe,
        step=saved["step"],
        params=params,
        moments=moments,
        ema=ema,
        data=data,
        origin=read_origin(path, recipe),
    )


def write_training(state: TrainingState, directory: Path) -> None:
    """Makes a run of a state, from which training goes on on any device.

    Args:
        state: Of the run, checked.
        directory: Of the new run.
    """
    written = make_trainer(state.recipe, state.config()).init(random.key(0))
    _fill(written, state)
    with RunDirectory(directory, state.recipe, resume=False, origin=state.origin) as run:
        run.save(state.step, written, dict(state.data))


def read_state(path: Path, trainer: Trainer, recipe: Recipe) -> tuple[TrainState, dict[str, Any]]:
    """The state where another run ended, whichever framework trained it, and its position in the data.

    Args:
        path: Of that run.
        trainer: Of this run, of the same model and optimiser; its device may be another.
        recipe: Of this run.

    Raises:
        CheckpointError: As `parity.runs.read_training`.
    """
    saved = runs.read_training(path)
    state = trainer.init(random.key(0))
    _fill(state, dataclasses.replace(saved, recipe=recipe))
    return state, dict(saved.data)


def _fill(state: TrainState, saved: TrainingState) -> None:
    """Gives a state the values of another one that has been checked, and the optimiser the rate of its last step."""

    def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: from_numpy(np.asarray(value)) for name, value in arrays.items()}

    with torch.no_grad():
        for targets, arrays in ((state.params, saved.params), (state.ema or {}, saved.ema or {})):
            for name, value in tensors(arrays).items():
                targets[name].copy_(value)
    with_moments(state.opt_state, saved.step, {kind: tensors(moment) for kind, moment in saved.moments.items()})
    recipe = saved.recipe
    set_learning_rate(state.opt_state, learning_rate(max(0, saved.step - 1), recipe.optimizer, steps=recipe.steps))
    state.step = saved.step


def _moments(
    optimizer: Mapping[str, Any], words: Mapping[str, str]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, int]]:
    """Moments by optax's name and canonical name, and each parameter's counter, of an optimiser's `state_dict`.

    Args:
        optimizer: The `state_dict`; its groups have the names of their parameters.
        words: PyTorch's names of moments by optax's; what is there under other names keeps it.
    """
    names = {
        index: name
        for group in optimizer["param_groups"]
        for index, name in zip(group["params"], group["param_names"], strict=True)
    }
    ours = {theirs: moment for moment, theirs in words.items()}
    moments: dict[str, dict[str, np.ndarray]] = {}
    counts: dict[str, int] = {}
    for index, state in optimizer["state"].items():
        for key, value in state.items():
            if key == "step":
                counts[f"step of {names[index]}"] = int(value)
            else:
                moments.setdefault(str(ours.get(key, key)), {})[names[index]] = to_numpy(value)
    return moments, counts


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: to_numpy(value) for name, value in tensors.items()}
