"""Rotary positions of query and key. Twin: `vit_torch/layers/rope.py`.

Sources: Su et al. 2021, arXiv:2104.09864, and those of `parity/configs/rope.py`, which has the angles.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import VitConfig
from parity.configs.rope import coordinates, frequencies

from .. import random

# Sine and cosine of each patch's angles, for all heads or for each.
Rotation = tuple[Float[Array, "n nh f"], Float[Array, "n nh f"]]


def rotate(x: Float[Array, "b n nh hd"], rotation: Rotation, *, half: bool) -> Float[Array, "b n nh hd"]:
    """Rotates pairs of channels of the patches, which are the last tokens; in float32 or better.

    Args:
        x: Query or key of all tokens.
        rotation: Of the patches alone.
        half: Whether pairs are channels i and i + hd / 2, or neighbours.
    """
    sin, cos = rotation
    prefix, x = x[:, : -sin.shape[0]], x[:, -sin.shape[0] :]
    pairs = x.reshape(*x.shape[:-1], *((2, -1) if half else (-1, 2)))
    axis = -2 if half else -1
    first, second = jnp.take(pairs, 0, axis), jnp.take(pairs, 1, axis)
    rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis)
    return jnp.concatenate([prefix, rotated.reshape(x.shape).astype(x.dtype)], axis=1)


class RotaryEmbedding(nnx.Module):
    """The rotation of each patch of a grid.

    Args:
        config: Of the model that the layer is part of.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        assert config.rope is not None  # the model makes this layer for such configs alone
        self.rope = config.rope
        self.head_dim = config.head_dim
        self.learned = config.rope.kind == "mixed"
        if self.learned:
            # Two orthogonal directions of a random angle for each block and head.
            magnitude = jnp.asarray(frequencies(config.rope, config.head_dim), jnp.float32)
            turn = jax.random.uniform(rngs.params(), (config.depth, config.num_heads, 1)) * 2 * math.pi
            angles = jnp.stack([turn, turn + math.pi / 2], axis=2)
            parts = [magnitude * f(angles) for f in (jnp.cos, jnp.sin)]
            self.freqs = nnx.Param(jnp.stack([part.reshape(*part.shape[:2], -1) for part in parts]))

    def __call__(
        self, grid_size: tuple[int, int], *, dtype: jnp.dtype, key: random.Key | None = None
    ) -> Rotation | list[Rotation]:
        """The rotation that all blocks share, or with learned frequencies one for each block.

        Args:
            grid_size: Patches down and across.
            dtype: Of the model; the rotation is in float32 or better.
            key: Of the coordinates' augmentation; None for none.
        """
        dtype = jnp.promote_types(dtype, jnp.float32)
        positions = jnp.asarray(coordinates(self.rope, grid_size), dtype)
        if key is not None and self.rope.rescale is not None:
            exponent = 2 * random.uniform(key, ()).astype(dtype) - 1
            positions = positions * jnp.exp(exponent * math.log(self.rope.rescale))
        if not self.learned:
            scale = jnp.asarray(frequencies(self.rope, self.head_dim), dtype)
            angles = (positions[:, :, None] * scale).reshape(positions.shape[0], 1, -1)
            return jnp.sin(angles), jnp.cos(angles)
        freqs = self.freqs[...].astype(dtype)
        angles = positions[:, :1, None] * freqs[0, :, None] + positions[:, 1:, None] * freqs[1, :, None]
        return [(jnp.sin(block), jnp.cos(block)) for block in angles]
