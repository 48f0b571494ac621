"""Rotary positions of query and key. Twin: `vit_torch/layers/rope.py`.

Sources: Su et al. 2021, arXiv:2104.09864, eq. 34, and those of `parity/configs/rope.py`, which has coordinates and
frequencies. A pair of channels (a, b) of a patch at position p turns by the angle p * frequency:

    (a cos - b sin, b cos + a sin)

A quarter of a head's channels, in pairs with another quarter, goes with either axis. Where other projects differ: EVA,
the Perception Encoder and timm's own models pair neighbouring channels, DINOv3 and Llama channels of both halves;
DINOv3's code computes its periods in bfloat16 or float32, this one the angles in float32 or better.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from parity.configs.rope import (
    Indexing,
    NormalizeCoords,
    centered_coordinates,
    centered_frequencies,
    coordinates,
    frequencies,
)

from .. import random
from .drop import Stochastic

# Sine and cosine of each patch's angles, for all heads or for each.
Rotation = tuple[Float[Array, "n nh f"], Float[Array, "n nh f"]]


def rotate(x: Float[Array, "b n nh hd"], rotation: Rotation, *, half: bool) -> Float[Array, "b n nh hd"]:
    """Rotates pairs of channels of the patches, which are the last tokens; in float32 or better.

    Args:
        x: Query or key of all tokens.
        rotation: Sine and cosine of the patches alone.
        half: Whether pairs are channels i and i + hd / 2, or neighbours.
    """
    sin, cos = rotation
    prefix, x = x[:, : -sin.shape[0]], x[:, -sin.shape[0] :]
    pairs = x.reshape(*x.shape[:-1], *((2, -1) if half else (-1, 2)))
    axis = -2 if half else -1
    first, second = jnp.take(pairs, 0, axis), jnp.take(pairs, 1, axis)
    rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis)
    return jnp.concatenate([prefix, rotated.reshape(x.shape).astype(x.dtype)], axis=1)


class RotaryEmbedding(Stochastic):
    """The rotation of each patch of a grid, by its place counted in patches (EVA-02, Fang et al. 2023).

    Args:
        head_dim: The width of one head; a multiple of 4.
        temperature: The base of the frequencies temperature^(-4 i / head_dim).
        offset: What is added to each position, in patches.
        indexing: Which coordinate comes first: rows (`ij`) or columns (`xy`).
        reference_grid: Patches down and across that positions are scaled to; None for no scaling.
        rescale: Training mode multiplies coordinates by a factor drawn log-uniformly from
            [1 / rescale, rescale]; None for no augmentation.

    Raises:
        ValueError: A width that 4 doesn't divide.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        temperature: float = 10_000.0,
        offset: float = 0.0,
        indexing: Indexing = "ij",
        reference_grid: tuple[int, int] | None = None,
        rescale: float | None = None,
    ):
        if head_dim % 4:
            raise ValueError(f"head_dim: got {head_dim}, expected a multiple of 4 with rotary positions")
        super().__init__(rescale is not None)
        self.head_dim = head_dim
        self.temperature = temperature
        self.offset = offset
        self.indexing: Indexing = indexing
        self.reference_grid = reference_grid
        self.rescale = rescale

    def __call__(
        self, grid_size: tuple[int, int], *, dtype: jnp.dtype, key: random.Key | None = None
    ) -> Rotation | list[Rotation]:
        """The rotation that all blocks share, or with learned frequencies one for each block.

        Args:
            grid_size: Patches down and across.
            dtype: The type of the model; the rotation is in float32 or better.
            key: The key of the coordinates' augmentation; without one, what `source` says.
        """
        dtype = jnp.promote_types(dtype, jnp.float32)
        positions = jnp.asarray(self._coordinates(grid_size), dtype)
        key = self.source(key)
        if key is not None and self.rescale is not None:
            exponent = 2 * random.uniform(key, ()).astype(dtype) - 1
            positions = positions * jnp.exp(exponent * math.log(self.rescale))
        return self._rotation(positions)

    def _rotation(self, positions: Float[Array, "n 2"]) -> Rotation | list[Rotation]:
        scale = jnp.asarray(self._frequencies(), positions.dtype)
        angles = (positions[:, :, None] * scale).reshape(positions.shape[0], 1, -1)
        return jnp.sin(angles), jnp.cos(angles)

    def _coordinates(self, grid_size: tuple[int, int]) -> np.ndarray:
        return coordinates(grid_size, offset=self.offset, indexing=self.indexing, reference_grid=self.reference_grid)

    def _frequencies(self) -> np.ndarray:
        return frequencies(self.head_dim, temperature=self.temperature)


class CenteredRotaryEmbedding(RotaryEmbedding):
    """The rotation of each patch, by its centre's place in [-1, 1] over the image (DINOv3, Siméoni et al. 2025).

    Args:
        head_dim: The width of one head; a multiple of 4.
        temperature: The base of the periods temperature^(4 i / head_dim), in half images.
        min_period: The shortest period; with `max_period` it takes the temperature's place, and periods rise
            geometrically from one to the other.
        max_period: The longest period.
        normalize_coords: What centres are divided by: the patches of the axis itself (`separate`), or of the shorter
            (`min`) or longer (`max`) side for both axes.
        offset: What is added to each position, in patches.
        indexing: Which coordinate comes first: rows (`ij`) or columns (`xy`).
        rescale: The same as in `RotaryEmbedding`.

    Raises:
        ValueError: A width that 4 doesn't divide.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        temperature: float = 100.0,
        min_period: float | None = None,
        max_period: float | None = None,
        normalize_coords: NormalizeCoords = "separate",
        offset: float = 0.0,
        indexing: Indexing = "ij",
        rescale: float | None = None,
    ):
        super().__init__(head_dim, temperature=temperature, offset=offset, indexing=indexing, rescale=rescale)
        self.min_period = min_period
        self.max_period = max_period
        self.normalize_coords: NormalizeCoords = normalize_coords

    def _coordinates(self, grid_size: tuple[int, int]) -> np.ndarray:
        return centered_coordinates(
            grid_size, offset=self.offset, indexing=self.indexing, normalize_coords=self.normalize_coords
        )

    def _frequencies(self) -> np.ndarray:
        return centered_frequencies(
            self.head_dim, temperature=self.temperature, min_period=self.min_period, max_period=self.max_period
        )


class MixedRotaryEmbedding(RotaryEmbedding):
    """Rotations by learned frequencies over both axes at once, for each block and head (Heo et al. 2024, eq. 14).

    Args:
        head_dim: The width of one head; a multiple of 4.
        num_heads: The number of heads.
        depth: The number of blocks.
        temperature: The same as in `RotaryEmbedding`, of the start values.
        offset: The same as in `RotaryEmbedding`.
        indexing: The same as in `RotaryEmbedding`.
        reference_grid: The same as in `RotaryEmbedding`.
        rescale: The same as in `RotaryEmbedding`.
        rngs: The source of the initial values: two orthogonal directions of a random angle for each block and head.

    Raises:
        ValueError: A width that 4 doesn't divide.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        num_heads: int,
        depth: int,
        temperature: float = 10.0,
        offset: float = 0.0,
        indexing: Indexing = "ij",
        reference_grid: tuple[int, int] | None = None,
        rescale: float | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            head_dim,
            temperature=temperature,
            offset=offset,
            indexing=indexing,
            reference_grid=reference_grid,
            rescale=rescale,
        )
        magnitude = jnp.asarray(self._frequencies(), jnp.float32)
        turn = jax.random.uniform(rngs.params(), (depth, num_heads, 1)) * 2 * math.pi
        angles = jnp.stack([turn, turn + math.pi / 2], axis=2)
        parts = [magnitude * f(angles) for f in (jnp.cos, jnp.sin)]
        self.freqs = nnx.Param(jnp.stack([part.reshape(*part.shape[:2], -1) for part in parts]))

    def _rotation(self, positions: Float[Array, "n 2"]) -> list[Rotation]:
        freqs = self.freqs[...].astype(positions.dtype)
        angles = positions[:, :1, None] * freqs[0, :, None] + positions[:, 1:, None] * freqs[1, :, None]
        return [(jnp.sin(block), jnp.cos(block)) for block in angles]
