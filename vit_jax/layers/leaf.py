"""How a parameter of a Flax layer is written in the canonical (timm, PyTorch) layout.

One-sided: in `vit_torch` every parameter is canonical already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import einops
import numpy as np


@dataclass(frozen=True)
class Leaf:
    """The rule for one parameter of one kind of layer.

    Attributes:
        name: What the canonical layout calls it.
        layout: einops pattern from the Flax axes to the canonical ones. A parameter with more axes than the pattern's
            left side has its last axes merged: a projection to (3, heads, head_dim) is an `o` to PyTorch.
    """

    name: str
    layout: str

    def to_canonical(self, value: np.ndarray) -> np.ndarray:
        """A parameter's value in the canonical layout."""
        return einops.rearrange(value.reshape(self._merged(value.shape)), self.layout)

    def from_canonical(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of `to_canonical`, for a parameter of that shape."""
        source, target = self.layout.split(" -> ")
        return einops.rearrange(value, f"{target} -> {source}").reshape(shape)

    def canonical_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the parameter in the canonical layout."""
        source, target = (side.split() for side in self.layout.split(" -> "))
        sizes = dict(zip(source, self._merged(shape), strict=True))
        return tuple(sizes[axis] for axis in target)

    def _merged(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = len(self.layout.split(" -> ")[0].split()) - 1
        return (*shape[:kept], math.prod(shape[kept:]))
