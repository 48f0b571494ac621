"""What both frameworks share: configs, checkpoints, data, recipes, runs and comparison. Loads neither jax nor torch."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from . import configs

if TYPE_CHECKING:
    from . import checkpoints, data, recipes, runs

__all__ = ["checkpoints", "configs", "data", "recipes", "runs"]


def __getattr__(name: str) -> ModuleType:
    """Imports a subpackage when it is first used: NumPy alone would double the time of `vit-parity --help`."""
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
