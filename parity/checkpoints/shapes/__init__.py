"""Canonical names and shapes of a model's tensors, from its config alone: one file for each family.

Converting needs them on a machine that may have neither framework; tests hold them against both models.
"""

from __future__ import annotations

import math

from ...configs import Config, family
from . import vit

Shape = tuple[int, ...]

# By family, as `parity.configs` calls it.
_SHAPES = {"vit": vit.shapes}


# What BatchNorm has besides parameters: it travels with them, and no optimiser changes it.
_STATISTICS = ("running_mean", "running_var")


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Shape of each parameter and statistic by canonical name, in the order in which timm has them."""
    return dict(_SHAPES[family(config)](config))


def is_statistic(name: str) -> bool:
    """Whether a tensor is a statistic of BatchNorm, by its canonical name."""
    return name.rpartition(".")[2] in _STATISTICS


def parameter_count(config: Config) -> int:
    """Number of parameters; statistics aren't counted."""
    return sum(math.prod(shape) for name, shape in parameter_shapes(config).items() if not is_statistic(name))
