"""Dropout and stochastic depth: masks of a key, or in training mode of the framework's own source of random numbers.

With a mask m of independent draws that are 1 with probability 1 - rate,

    y = x * m / (1 - rate)

which keeps the mean. Dropout (Srivastava et al. 2014, JMLR 15) draws for each element; stochastic depth (Huang et al.
2016, arXiv:1603.09382, eq. 2) for each sample, whose residual branch it keeps or drops as a whole. Huang et al. scale
at evaluation; like timm, this scales in training.

A key that is given is always drawn from, in both modes, and gives the same masks in both frameworks, bit for bit.
Without one, nothing is dropped in evaluation mode. In training mode, Flax draws from a stream that was given at the
start or raises, for a silent no-op would train another model; PyTorch draws from its generator. Twin:
`vit_torch/layers/drop.py`.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .. import random


class Stochastic(nnx.Module):
    """A layer or model that draws random numbers in training mode.

    `model.train()` and `model.eval()` set `deterministic`, which is False to begin with.

    Args:
        draws: Whether it draws at all, such as at a rate above 0.
        rngs: What the layer's own stream `dropout` is forked from, as `nnx.Dropout` does; None, or one that has neither
            this stream nor a default, for no stream: then training mode takes a key with each call. Where blocks are
            scanned, a stream of their own would repeat, so that a model has one and gives its layers keys.
    """

    # What gives a model its stream, for the advice of an error; a model's layers are given keys.
    origin: ClassVar[str] = ""

    def __init__(self, draws: bool, *, rngs: nnx.Rngs | None = None):
        self.draws = draws
        self.deterministic = False
        self.rngs = nnx.data(random.stream(rngs) if draws else None)

    def source(self, key: random.Key | None) -> random.Key | None:
        """What to draw from: the given key; without one, None in evaluation mode and the stream in training mode.

        What never draws has no source, so that no key is split and no mask drawn for it.

        Raises:
            ValueError: Training mode, and neither a key nor a stream.
        """
        if not self.draws:
            return None
        if key is not None or self.deterministic:
            return key
        if self.rngs is None:
            ways = "pass key=vit_jax.random.key(seed), or call eval() to draw nothing"
            ways += f", or give {self.origin} a stream: rngs=nnx.Rngs(params=0, dropout=1)" if self.origin else ""
            raise ValueError(f"key: got None in training mode for {type(self).__name__}, expected one; {ways}")
        return self.rngs()

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` calls.

        Args:
            deterministic: if True, nothing is drawn without a key.
        """
        if deterministic is not None:
            self.deterministic = deterministic


class Dropout(Stochastic):
    """Zeroes elements with probability `rate` and divides the others by the rate that is kept.

    Args:
        rate: The share of elements that are dropped, in [0, 1).
        rngs: The source of the layer's own stream; None for none.

    Raises:
        ValueError: A rate outside of [0, 1).
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs | None = None):
        if not 0 <= rate < 1:
            raise ValueError(f"rate: got {rate}, expected a value in [0, 1)")
        super().__init__(rate > 0, rngs=rngs)
        self.rate = rate

    def __call__(self, x: Float[Array, "..."], *, key: random.Key | None = None) -> Float[Array, "..."]:
        """Drops elements.

        Args:
            x: An array of any shape.
            key: The key of the mask; without one, what `source` says.
        """
        return dropout(x, self.rate, self.source(key))


class DropPath(Stochastic):
    """Keeps whole samples with probability `keep_rate`, divided by it, and zeroes the others.

    The rate is an argument of the call, so that blocks which differ in nothing else can be scanned.

    Args:
        rngs: The source of the layer's own stream; None for none.
    """

    def __init__(self, *, rngs: nnx.Rngs | None = None):
        super().__init__(True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b ..."], keep_rate: float | Float[Array, ""] | None, *, key: random.Key | None = None
    ) -> Float[Array, "b ..."]:
        """Drops samples.

        Args:
            x: What a residual branch adds.
            keep_rate: The probability with which a sample is kept; None keeps all and needs no key.
            key: The key of the mask; without one, what `source` says.
        """
        return x if keep_rate is None else drop_path(x, keep_rate, self.source(key))


def dropout(x: Float[Array, "..."], rate: float, key: random.Key | None) -> Float[Array, "..."]:
    """`Dropout` as a function of a key; no key, no randomness."""
    if key is None or rate == 0:
        return x
    return _keep(x, random.keep_mask(key, 1 - rate, x.shape), 1 - rate)


def drop_path(
    x: Float[Array, "b ..."], keep_rate: float | Float[Array, ""] | None, key: random.Key | None
) -> Float[Array, "b ..."]:
    """`DropPath` as a function of a key; no key, no randomness."""
    if key is None or keep_rate is None:
        return x
    return _keep(x, random.keep_mask(key, keep_rate, (x.shape[0],) + (1,) * (x.ndim - 1)), keep_rate)


def _keep(x: Float[Array, "..."], mask: jax.Array, keep_rate: float | Float[Array, ""]) -> Float[Array, "..."]:
    # In float32 or better: 1 / 0.9 in bfloat16 would scale everything by 0.998.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (x.astype(wide) * (mask / keep_rate).astype(wide)).astype(x.dtype)
