"""Position embeddings that are added to the tokens. Twin: `vit_torch/layers/pos_embed.py`.

Sources: learned ones, Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1; fixed ones, Vaswani et al. 2017,
arXiv:1706.03762, section 3.5, over two axes as in MoCo v3 (`parity/configs/sincos.py`). Where other projects differ:
the kernel that takes a learned grid to another size (`parity/checkpoints/resize.py` has those of all sources), and the
frequencies of the fixed ones, which end at 1/10000 itself in big_vision and one step before it in MoCo v3 and MAE.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from parity.checkpoints.resize import resize_matrix
from parity.configs.sincos import sincos2d


def fixed_positions(
    grid_size: tuple[int, int], dim: int, *, dtype: jnp.dtype, big_vision: bool = False
) -> Float[Array, "1 n d"]:
    """The sin-cos embedding of a grid, in float64 until the end.

    Args:
        grid_size: Patches down and across.
        dim: The width of the tokens; a multiple of 4.
        dtype: The type of the result.
        big_vision: Whether frequencies are big_vision's.
    """
    return jnp.asarray(sincos2d(grid_size, dim, big_vision=big_vision), dtype)[None]


def learned_positions(
    table: Float[Array, "1 m d"],
    grid_size: tuple[int, int],
    *,
    own_grid_size: tuple[int, int],
    num_prefix: int = 0,
    kernel: str = "bicubic_antialias",
) -> Float[Array, "1 m2 d"]:
    """The learned embedding, its grid resized where images have another size.

    The resize is in float32 or better and rounded once.

    Args:
        table: The embedding of its own grid; entries of prefix tokens first, which stay.
        grid_size: Patches down and across of the images.
        own_grid_size: Patches down and across of the table.
        num_prefix: How many entries are those of prefix tokens.
        kernel: The kernel of the resize, one of `parity.checkpoints.resize`.
    """
    if grid_size == own_grid_size:
        return table
    # Kernels and sums in bfloat16 would round three times.
    wide = jnp.promote_types(table.dtype, jnp.float32)
    prefix, grid = table[:, :num_prefix], table[0, num_prefix:].reshape(*own_grid_size, -1)
    rows, columns = (
        jnp.asarray(resize_matrix(old, new, kernel), wide) for old, new in zip(own_grid_size, grid_size, strict=True)
    )
    resized = jnp.einsum("ih,jw,hwd->ijd", rows, columns, grid.astype(wide)).astype(table.dtype)
    return jnp.concatenate([prefix, resized.reshape(1, -1, resized.shape[-1])], axis=1)


def add_positions(
    x: Float[Array, "b n d"], positions: Float[Array, "1 m d"], *, num_prefix: int = 0
) -> Float[Array, "b n d"]:
    """Adds positions to all tokens, of which some prefix tokens may have none.

    Args:
        x: Tokens, those of the prefix first.
        positions: One for each token but the prefix tokens that have none.
        num_prefix: How many positions are those of the first prefix tokens; the tokens behind these have none.
    """
    without = x.shape[1] - positions.shape[1]
    if without:
        nothing = jnp.zeros((1, without, x.shape[-1]), positions.dtype)
        positions = jnp.concatenate([positions[:, :num_prefix], nothing, positions[:, num_prefix:]], axis=1)
    return x + positions
