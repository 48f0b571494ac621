"""Dropout and stochastic depth: masks of a key, or in training mode of the framework's own source of random numbers.

With a mask m of independent draws that are 1 with probability 1 - rate,

    y = x * m / (1 - rate)

which keeps the mean. Dropout (Srivastava et al. 2014, JMLR 15) draws for each element; stochastic depth (Huang et al.
2016, arXiv:1603.09382, eq. 2) for each sample, whose residual branch it keeps or drops as a whole. Huang et al. scale
at evaluation; like timm, this scales in training.

A key that is given is always drawn from, in both modes, and gives the same masks in both frameworks, bit for bit.
Without one, nothing is dropped in evaluation mode. In training mode, Flax draws from a stream that was given at the
start or raises, for a silent no-op would train another model; PyTorch draws from its generator. Twin:
`vit_jax/layers/drop.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import random


class Stochastic(nn.Module):
    """A layer that draws random numbers in training mode.

    `model.train()` and `model.eval()` set `training`, which is True to begin with.

    Args:
        draws: Whether it draws at all, such as at a rate above 0.
    """

    def __init__(self, draws: bool):
        super().__init__()
        self.draws = draws

    def source(self, key: random.Key | None) -> random.Key | None:
        """What to draw from: the given key; without one, None in evaluation mode and the generator in training mode.

        What never draws has no source, so that no key is split and no mask drawn for it.
        """
        if not self.draws:
            return None
        if key is not None or not self.training:
            return key
        return random.GLOBAL


class Dropout(Stochastic):
    """Zeroes elements with probability `rate` and divides the others by the rate that is kept.

    Args:
        rate: The share of elements that are dropped, in [0, 1).

    Raises:
        ValueError: A rate outside of [0, 1).
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"rate: got {rate}, expected a value in [0, 1)")
        super().__init__(rate > 0)
        self.rate = rate

    def forward(self, x: Float[Tensor, "..."], *, key: random.Key | None = None) -> Float[Tensor, "..."]:
        """Drops elements.

        Args:
            x: A tensor of any shape.
            key: The key of the mask; without one, what `source` says.
        """
        return dropout(x, self.rate, self.source(key))

    def extra_repr(self) -> str:
        """The rate, for `print(model)`."""
        return f"rate={self.rate}"


class DropPath(Stochastic):
    """Keeps whole samples with probability `keep_rate`, divided by it, and zeroes the others.

    The rate is an argument of the call, so that blocks which differ in nothing else can be scanned.
    """

    def __init__(self):
        super().__init__(True)

    def forward(
        self, x: Float[Tensor, "b ..."], keep_rate: float | None, *, key: random.Key | None = None
    ) -> Float[Tensor, "b ..."]:
        """Drops samples.

        Args:
            x: What a residual branch adds.
            keep_rate: The probability with which a sample is kept; None keeps all and needs no key.
            key: The key of the mask; without one, what `source` says.
        """
        return x if keep_rate is None else drop_path(x, keep_rate, self.source(key))


def dropout(x: Float[Tensor, "..."], rate: float, key: random.Key | None) -> Float[Tensor, "..."]:
    """`Dropout` as a function of a key; no key, no randomness."""
    if key is None or rate == 0:
        return x
    return _keep(x, random.keep_mask(key, 1 - rate, x.shape, x.device), 1 - rate)


def drop_path(x: Float[Tensor, "b ..."], keep_rate: float | None, key: random.Key | None) -> Float[Tensor, "b ..."]:
    """`DropPath` as a function of a key; no key, no randomness."""
    if key is None or keep_rate is None:
        return x
    return _keep(x, random.keep_mask(key, keep_rate, (x.shape[0],) + (1,) * (x.ndim - 1), x.device), keep_rate)


def _keep(x: Float[Tensor, "..."], mask: Tensor, keep_rate: float) -> Float[Tensor, "..."]:
    # In float32 or better: 1 / 0.9 in bfloat16 would scale everything by 0.998.
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) * (mask.double() / keep_rate).to(wide)).to(x.dtype)
