"""Random numbers of a forward pass: the same key gives the same masks in both frameworks.

Keys are JAX's own (threefry). Twin: `vit_torch/random.py`, which computes the same bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from .stacks import take_layers

Key = jax.Array


def key(seed: int) -> Key:
    """The key of a seed."""
    return jax.random.key(seed, impl="threefry2x32")


def stream(rngs: nnx.Rngs | None) -> nnx.RngStream | None:
    """A stream of keys of its own, forked from the stream `dropout` or the default one; None where there is neither."""
    dropout = getattr(rngs, "dropout", None)
    return None if dropout is None else dropout.fork()


def split(key: Key | None, num: int) -> list[Key] | list[None]:
    """`num` independent keys; of None, which stands for no randomness, as many None."""
    if key is None:
        return [None] * num
    return take_layers(jax.random.split(key, num), num)


def fold_in(key: Key, number: jax.Array | int) -> Key:
    """Another key for each number, from 0 to 2**32 - 1."""
    return jax.random.fold_in(key, number)


def uniform(key: Key, shape: tuple[int, ...]) -> jax.Array:
    """Values in [0, 1), float32 whatever the model's precision."""
    return jax.random.uniform(key, shape, jnp.float32)


def keep_mask(key: Key, keep_rate: jax.Array | float, shape: tuple[int, ...]) -> jax.Array:
    """Booleans (b, ...), True with probability `keep_rate`, decided in float32 whatever the model's precision."""
    return uniform(key, shape) < jnp.asarray(keep_rate, jnp.float32)
