"""Ways to learn, by the names that recipes use. Twin: `vit_jax/objectives/__init__.py`."""

from __future__ import annotations

from collections.abc import Mapping

from parity.configs import Config
from parity.recipes import Recipe

from ..models import Model
from .classification import Classification
from .distillation import Distillation
from .objective import Objective

# The class of each objective of `parity.recipes`.
OBJECTIVES: dict[str, type[Objective]] = {"classification": Classification, "distillation": Distillation}

__all__ = ["OBJECTIVES", "Classification", "Distillation", "Objective", "make_objective"]


def make_objective(recipe: Recipe, config: Config, frozen: Mapping[str, Model] | None = None) -> Objective:
    """The objective that a recipe names.

    Args:
        recipe: The recipe of the run.
        config: The config of the model, with the classes of the data.
        frozen: The models that help and never change, by the names of `recipe.objective.checkpoints`; None where no
            step will be made.
    """
    return OBJECTIVES[recipe.objective.name](recipe, config, frozen or {})
