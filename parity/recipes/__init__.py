"""Named training recipes; loads no framework."""

from __future__ import annotations

import fnmatch
import inspect
from typing import Any

from ..configs import close_match
from ..configs.registry import replace
from . import digits, digits_distilled, imagenet_seed
from .objectives import OBJECTIVES, Classification, Distillation, Objective
from .recipe import Data, MeshShape, Optimizer, Recipe, differences, from_dict, starting_from, to_dict
from .rules import AVERAGE_POWER, MOMENTS, average_share, decays, is_cast, learning_rate, learning_rate_scale

_MODULES = {"digits": digits, "digits_distilled": digits_distilled, "imagenet_seed": imagenet_seed}
RECIPES: dict[str, Recipe] = {name: module.RECIPE for name, module in _MODULES.items()}

__all__ = [
    "AVERAGE_POWER",
    "MOMENTS",
    "OBJECTIVES",
    "RECIPES",
    "Classification",
    "Data",
    "Distillation",
    "MeshShape",
    "Objective",
    "Optimizer",
    "Recipe",
    "average_share",
    "decays",
    "describe",
    "differences",
    "from_dict",
    "get",
    "is_cast",
    "learning_rate",
    "learning_rate_scale",
    "names",
    "starting_from",
    "to_dict",
]


def names(pattern: str = "*") -> list[str]:
    """Names of the recipes that match a shell-style pattern, sorted."""
    return sorted(fnmatch.filter(RECIPES, pattern))


def get(name: str, **overrides: Any) -> Recipe:
    """A named recipe, with fields replaced.

    Args:
        name: A recipe, such as `digits`.
        overrides: Fields to replace, such as `steps=100`.

    Raises:
        ValueError: Unknown name or field (with a close match), or fields that make no run.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{close_match(name, RECIPES)}; there are {', '.join(names())}")
    return replace(RECIPES[name], **overrides)


def describe(name: str) -> str:
    """What a recipe's module says of it: its command, its cost and the result to expect."""
    return inspect.cleandoc(_MODULES[name].__doc__ or "")
