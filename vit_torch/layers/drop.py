"""Dropout and stochastic depth as functions of a key; no key, no randomness.

Sources: Srivastava et al. 2014; Huang et al. 2016 (arXiv:1603.09382). Twin: `vit_jax/layers/drop.py`.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .. import random


def dropout(x: Float[Tensor, "..."], rate: float, key: random.Key | None) -> Float[Tensor, "..."]:
    """Zeroes elements with probability `rate` and divides the others by the rate that is kept."""
    if key is None or rate == 0:
        return x
    return _keep(x, random.keep_mask(key, 1 - rate, x.shape, x.device), 1 - rate)


def drop_path(x: Float[Tensor, "b ..."], keep_rate: float | None, key: random.Key | None) -> Float[Tensor, "b ..."]:
    """Keeps whole samples with probability `keep_rate`, divided by it, and zeroes the others."""
    if key is None or keep_rate is None:
        return x
    return _keep(x, random.keep_mask(key, keep_rate, (x.shape[0],) + (1,) * (x.ndim - 1), x.device), keep_rate)


def _keep(x: Float[Tensor, "..."], mask: Tensor, keep_rate: float) -> Float[Tensor, "..."]:
    return x * (mask.double() / keep_rate).to(x.dtype)
