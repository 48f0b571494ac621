"""Everything that a run goes on from, in neither framework's words.

Parameters, moments and averages are NumPy arrays by canonical name in the canonical layout. AdamW's moments are `mu`
and `nu` (PyTorch: `exp_avg`, `exp_avg_sq`), SGD's is `trace` (`momentum_buffer`). A run's random numbers and learning
rates are functions of the recipe and the step; there is no other state of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checkpoints import CheckpointError, account, parameter_shapes, shapes_of
from ..checkpoints.accounting import LINES, cut
from ..checkpoints.adapt import is_head
from ..checkpoints.shapes import is_statistic
from ..configs import Config
from ..recipes import MOMENTS, Recipe
from .origin import Origin

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A run between two steps.

    Attributes:
        recipe: The recipe of the run.
        step: The number of steps that were made; every counter of the optimiser and the schedule has it.
        params: Parameters and statistics by canonical name, in the canonical layout, like all arrays here.
        moments: What the optimiser remembers, by `MOMENTS` and then by canonical name.
        ema: Averaged parameters and statistics, or None where the recipe has no `ema_decay`.
        data: The position of the data iterator, JSON values.
        metrics: The lines of `metrics.jsonl` up to the step.
        origin: What the run started from, if not from values of the seed.
        carried: What the objective carries from step to step, by its own words and then by name.
    """

    recipe: Recipe
    step: int
    params: Arrays = field(repr=False)
    moments: Mapping[str, Arrays] = field(repr=False)
    ema: Arrays | None = field(repr=False)
    data: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    origin: Origin | None = None
    carried: Mapping[str, Arrays] = field(default_factory=dict, repr=False)

    def config(self) -> Config:
        """The config of the model, with the classes of the data."""
        if self.origin is not None:
            return self.origin.config
        config = self.recipe.config()
        shapes = shapes_of(self.params)
        heads = [shape for name, shape in shapes.items() if is_head(config, name) and name.endswith(".weight")]
        return self.recipe.config(heads[0][0] if heads else None)

    def check(self, *, source: str) -> None:
        """Holds the state against its recipe.

        Args:
            source: What to call the state in an error.

        Raises:
            CheckpointError: Missing, unexpected or misshapen tensors of any part, or such of another type than the
                recipe's, all in one report; or a step that the run hasn't.
        """
        shapes = parameter_shapes(self.config())
        expected = ["params", *MOMENTS[self.recipe.optimizer.name], *([] if self.recipe.ema_decay is None else ["ema"])]
        parts = {"params": self.params, **self.moments, **({} if self.ema is None else {"ema": self.ema})}
        found = {f"{part}.{name}": value for part, arrays in parts.items() for name, value in arrays.items()}
        wanted = {
            f"{part}.{name}": shape
            for part in expected
            for name, shape in shapes.items()
            if part in ("params", "ema") or not is_statistic(name)
        }
        account(wanted, shapes_of(found), source=source)
        dtype = np.dtype(np.float64 if self.recipe.precision == "float64" else np.float32)
        wrong = [f"{name}: got {value.dtype}" for name, value in found.items() if value.dtype != dtype]
        if wrong:
            raise CheckpointError(f"{source}: expected numbers of type {dtype}\n  {cut(wrong, between=LINES)}")
        # Before the first step there is something to keep where the values came from a checkpoint.
        first = 0 if self.recipe.init_from else 1
        if not first <= self.step <= self.recipe.steps:
            raise CheckpointError(f"{source}: step: got {self.step}, expected {first} to {self.recipe.steps}")
