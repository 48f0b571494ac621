"""The first state of a run that doesn't start from values of the seed. Twin: `vit_torch/start.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from parity.runs.start import Start

from .functional import params_of, statistics_of
from .run_checkpoints import read_state
from .state_dict import load_state_dict
from .train_step import Trainer, TrainState


def first_state(trainer: Trainer, start: Start) -> tuple[TrainState, dict[str, Any] | None] | None:
    """The state, and the position in the data if that isn't its beginning; None if the values are those of the seed.

    Optimiser and average of a checkpoint's parameters are new; those of a run that goes on are its own. Of either, each
    device's part alone is read.

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
    state = trainer.abstract_state()
    leaves = state.params | state.statistics

    def place(name: str, shape: tuple[int, ...], read: Callable[..., np.ndarray]) -> jax.Array:
        leaf = leaves[name]
        return jax.make_array_from_callback(shape, leaf.sharding, lambda index: read(index or ()).astype(leaf.dtype))

    model = nnx.clone(trainer.model)
    load_state_dict(model, start.tensors, source=start.recipe.init_from, place=place)
    return trainer.start(params_of(model), statistics_of(model)), None
