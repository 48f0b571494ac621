"""Position embeddings that are added to the tokens. Twin: `vit_torch/layers/pos_embed.py`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from parity.checkpoints.resize import resize_matrix
from parity.configs import VitConfig
from parity.configs.sincos import sincos2d


def fixed_positions(config: VitConfig, grid_size: tuple[int, int], dtype: jnp.dtype) -> Float[Array, "1 n d"]:
    """The sin-cos embedding of a grid, in float64 until the end."""
    big_vision = config.pos_embed == "sincos2d_big_vision"
    return jnp.asarray(sincos2d(grid_size, config.embed_dim, big_vision=big_vision), dtype)[None]


def learned_positions(
    table: Float[Array, "1 m d"], config: VitConfig, grid_size: tuple[int, int]
) -> Float[Array, "1 m2 d"]:
    """The learned embedding, its grid resized with the config's own kernel where images have another size.

    The resize is in float32 or better and rounded once.

    Args:
        table: Of the config's own grid; entries of prefix tokens first, which stay.
        config: Of the model.
        grid_size: Patches down and across.
    """
    if grid_size == config.grid_size:
        return table
    # Kernels and sums in bfloat16 would round three times.
    wide = jnp.promote_types(table.dtype, jnp.float32)
    num_prefix = config.num_pos_embed_prefix
    prefix, grid = table[:, :num_prefix], table[0, num_prefix:].reshape(*config.grid_size, -1)
    rows, columns = (
        jnp.asarray(resize_matrix(old, new, config.pos_embed_resize), wide)
        for old, new in zip(config.grid_size, grid_size, strict=True)
    )
    resized = jnp.einsum("ih,jw,hwd->ijd", rows, columns, grid.astype(wide)).astype(table.dtype)
    return jnp.concatenate([prefix, resized.reshape(1, -1, resized.shape[-1])], axis=1)


def add_positions(
    x: Float[Array, "b n d"], positions: Float[Array, "1 m d"], config: VitConfig
) -> Float[Array, "b n d"]:
    """Adds positions to all tokens, of which some prefix tokens may have none."""
    with_position = config.num_pos_embed_prefix if config.pos_embed == "learned" else 0
    without = config.num_prefix_tokens - with_position
    if without:
        nothing = jnp.zeros((1, without, x.shape[-1]), positions.dtype)
        positions = jnp.concatenate([positions[:, :with_position], nothing, positions[:, with_position:]], axis=1)
    return x + positions
