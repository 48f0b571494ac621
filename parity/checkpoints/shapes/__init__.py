"""Canonical names and shapes of a model's tensors, from its config alone: one file for each family.

Converting needs them on a machine that may have neither framework; tests hold them against both models. A family's file
has `shapes(config)`, and `resized(tensors, old, new)` for what follows from the sizes of images and patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from ...configs import Config, family
from . import mobilevit, pvt, resnet, swin, vit

Shape = tuple[int, ...]

# By family, as `parity.configs` calls it.
_FAMILIES: dict[str, ModuleType] = {
    "vit": vit,
    "swin": swin,
    "pvt": pvt,
    "resnet": resnet,
    "mobilevit": mobilevit,
}

# What BatchNorm has besides parameters: it travels with them, and no optimiser changes it.
_STATISTICS = ("running_mean", "running_var")


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Shape of each parameter and statistic by canonical name, in the order in which timm has them."""
    return dict(_FAMILIES[family(config)].shapes(config))


def resized(tensors: Mapping[str, np.ndarray], old: Config, new: Config) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors whose values follow from a size that differs between two configs of a family, in float64.

    Args:
        tensors: The tensors by canonical name; they are read one after another.
        old: The config of the tensors.
        new: The config that they are to be of.
    """
    return _FAMILIES[family(old)].resized(tensors, old, new)


def is_statistic(name: str) -> bool:
    """Whether a tensor is a statistic of BatchNorm, by its canonical name."""
    return name.rpartition(".")[2] in _STATISTICS


def parameter_count(config: Config) -> int:
    """Number of parameters; statistics aren't counted."""
    return sum(math.prod(shape) for name, shape in parameter_shapes(config).items() if not is_statistic(name))
