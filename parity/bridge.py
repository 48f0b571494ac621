"""Moving a run from one framework to the other, with optimiser, step, averages and position in the data.

A run's state is read without a framework (`parity/runs/read_training.py`) and written by the one that goes on with it,
which alone has to be installed; to read what Flax trained, Orbax has to be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import outputs
from .checkpoints import CheckpointError
from .checkpoints.formats.run import FRAMEWORKS, NAMES, Framework, framework_of
from .configs import close_match
from .runs.metrics import write_lines
from .runs.read_training import read_training
from .runs.training_state import TrainingState

__all__ = ["TrainingState", "convert_training", "read_training", "write_training"]


def write_training(state: TrainingState, directory: str | Path, *, to: Framework) -> None:
    """Writes a run that training in a framework goes on with, whole or not at all; the framework must be installed.

    Args:
        state: The state of the run.
        directory: The directory to make.
        to: `flax` or `torch`.

    Raises:
        ValueError: An unknown framework.
        CheckpointError: The directory exists, the tensors aren't those of the recipe, or the framework isn't
            installed.
    """
    directory = Path(directory)
    if to not in FRAMEWORKS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(FRAMEWORKS)}{close_match(to, FRAMEWORKS)}")
    _check_new(directory)
    state.check(source=f"the state for {directory}")
    framework = _framework(to, directory)
    with outputs.whole_directory(directory) as new:
        framework.write_training(state, new)
        write_lines(new, state.metrics)


def convert_training(src: str | Path, dst: str | Path, *, to: Framework, step: int | None = None) -> TrainingState:
    """Makes a run of one framework one of the other, with which its training goes on.

    Args:
        src: The run's directory; it stays as it is.
        dst: The directory of the new run, which must not exist.
        to: `flax` or `torch`.
        step: The step of the checkpoint to move; the latest by default.

    Returns:
        The state that was moved.

    Raises:
        ValueError: An unknown framework.
        CheckpointError: What `read_training` and `write_training` raise, or the run is one of that framework already.
    """
    src = Path(src)
    _check_new(dst)
    if framework_of(src) == to:
        raise CheckpointError(f"{src}: to: got {to}, and the checkpoints there are {NAMES[to]}'s already")
    state = read_training(src, step=step)
    write_training(state, dst, to=to)
    return state


def _check_new(directory: str | Path) -> None:
    try:
        outputs.check_new(directory)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _framework(framework: Framework, path: Path) -> Any:
    """The module of a framework that writes its training state."""
    try:
        if framework == "flax":
            from vit_jax import run_checkpoints
        else:
            from vit_torch import run_checkpoints
    except ImportError as error:
        extra = "jax" if framework == "flax" else "torch"
        raise CheckpointError(
            f"{path}: the training state of {NAMES[framework]} needs {error.name}, which isn't installed: "
            f"pip install 'vit-parity[{extra}]'"
        ) from None
    return run_checkpoints
