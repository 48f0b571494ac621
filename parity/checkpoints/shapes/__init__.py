"""Canonical names and shapes of a model's parameters, from its config alone: one file for each family.

Converting needs them on a machine that may have neither framework; tests hold them against both models.
"""

from __future__ import annotations

from ...configs import Config, family
from . import vit

Shape = tuple[int, ...]

# By family, as `parity.configs` calls it.
_SHAPES = {"vit": vit.shapes}


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Shape of each parameter by canonical name, in the order in which timm has them."""
    return dict(_SHAPES[family(config)](config))


def parameter_count(config: Config) -> int:
    """Number of parameters."""
    total = 0
    for shape in parameter_shapes(config).values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total
