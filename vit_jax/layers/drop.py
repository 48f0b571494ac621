"""Dropout and stochastic depth as functions of a key; no key, no randomness.

Sources: Srivastava et al. 2014; Huang et al. 2016 (arXiv:1603.09382). Twin: `vit_torch/layers/drop.py`.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from .. import random


def dropout(x: Float[Array, "..."], rate: float, key: random.Key | None) -> Float[Array, "..."]:
    """Zeroes elements with probability `rate` and divides the others by the rate that is kept."""
    if key is None or rate == 0:
        return x
    return _keep(x, random.keep_mask(key, 1 - rate, x.shape), 1 - rate)


def drop_path(
    x: Float[Array, "b ..."], keep_rate: float | Float[Array, ""] | None, key: random.Key | None
) -> Float[Array, "b ..."]:
    """Keeps whole samples with probability `keep_rate`, divided by it, and zeroes the others."""
    if key is None or keep_rate is None:
        return x
    return _keep(x, random.keep_mask(key, keep_rate, (x.shape[0],) + (1,) * (x.ndim - 1)), keep_rate)


def _keep(x: Float[Array, "..."], mask: jax.Array, keep_rate: float | Float[Array, ""]) -> Float[Array, "..."]:
    return x * (mask / keep_rate).astype(x.dtype)
