"""BEiT's learned bias of attention by relative position. Twin: `vit_torch/layers/rel_pos.py`.

Source: Bao et al. 2021, arXiv:2106.08254; the table is Raffel et al.'s (2020, arXiv:1910.10683) over two axes.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import VitConfig
from parity.configs.rel_pos import relative_position_index


def make_table(config: VitConfig) -> nnx.Param:
    """A table of zeros: a row for each relative position, a column for each head."""
    rows = int(relative_position_index(config.grid_size).max()) + 1
    return nnx.Param(jnp.zeros((rows, config.num_heads), jnp.float32))


def relative_position_bias(table: Float[Array, "rows nh"], grid_size: tuple[int, int]) -> Float[Array, "nh n n"]:
    """The bias of every pair of tokens: a class token, then the patches of the grid."""
    index = jnp.asarray(relative_position_index(grid_size))
    return table[index].transpose(2, 0, 1)


class RelativePositionBias(nnx.Module):
    """A table that all blocks share.

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        self.grid_size = config.grid_size
        self.relative_position_bias_table = make_table(config)

    def __call__(self) -> Float[Array, "nh n n"]:
        """The bias of every pair of tokens."""
        return relative_position_bias(self.relative_position_bias_table[...], self.grid_size)
