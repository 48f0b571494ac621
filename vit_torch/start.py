"""The first state of a run that doesn't start from values of the seed. Twin: `vit_jax/start.py`."""

from __future__ import annotations

from typing import Any

from parity.runs.start import Start

from .run_checkpoints import read_state
from .train_step import Trainer, TrainState


def first_state(trainer: Trainer, start: Start) -> tuple[TrainState, dict[str, Any] | None] | None:
    """The state, and the position in the data if that isn't its beginning; None if the values are those of the seed.

    Optimiser and average of a checkpoint's parameters are new; those of a run that goes on are its own.

    Args:
        trainer: The trainer of the run.
        start: What `parity.runs.start.begin` returned.

    Raises:
        CheckpointError: Tensors that don't fit, all in one report.
    """
    if start.goes_on_from is not None:
        return read_state(start.goes_on_from, trainer, start.recipe)
    if start.tensors is None:
        return None
    return trainer.load(start.tensors, source=start.recipe.init_from), None
