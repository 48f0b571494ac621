"""BEiT's learned bias of attention by relative position. Twin: `vit_torch/layers/rel_pos.py`.

Source: Bao et al. 2021, arXiv:2106.08254; the table is Raffel et al.'s (2020, arXiv:1910.10683) over two axes. It has a
row for each difference of two places of a grid and three for the class token; BEiT has one in each block, and may share
one among all.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution
from parity.configs.rel_pos import relative_position_index

from .. import random
from .attention import Attention, Bias, Mask
from .grouped_query import GroupedQueryAttention
from .rope import Rotation


def make_table(grid_size: tuple[int, int], num_heads: int) -> nnx.Param:
    """A table of zeros: a row for each relative position, a column for each head."""
    rows = int(relative_position_index(grid_size).max()) + 1
    return nnx.Param(jnp.zeros((rows, num_heads), jnp.float32))


def relative_position_bias(table: Float[Array, "rows nh"], grid_size: tuple[int, int]) -> Float[Array, "nh n n"]:
    """The bias of every pair of tokens: a class token, then the patches of the grid."""
    index = jnp.asarray(relative_position_index(grid_size))
    return table[index].transpose(2, 0, 1)


class RelativePositionBias(nnx.Module):
    """A table that several layers share; what it returns is the `bias` of their attention.

    Args:
        grid_size: Patches down and across.
        num_heads: The number of heads.
    """

    def __init__(self, grid_size: tuple[int, int], num_heads: int):
        self.grid_size = grid_size
        self.relative_position_bias_table = make_table(grid_size, num_heads)

    def __call__(self) -> Float[Array, "nh n n"]:
        """The bias of every pair of tokens."""
        return relative_position_bias(self.relative_position_bias_table[...], self.grid_size)


class RelativePositionAttention(Attention):
    """Self-attention with a table of its own, over a class token and the patches of a grid.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        grid_size: Patches down and across.
        options: The other arguments of `Attention`.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(self, dim: int, num_heads: int, *, grid_size: tuple[int, int], **options: Any):
        self.grid_size = grid_size
        super().__init__(dim, num_heads, **options)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n d"]:
        """Mixes the tokens; arguments as of `Attention`, where a bias is added to the table's."""
        own = relative_position_bias(self.relative_position_bias_table[...], self.grid_size)
        bias = own if bias is None else own + bias
        return super().__call__(x, rotation=rotation, mask=mask, bias=bias, key=key, execution=execution)

    def _add_inputs(self, dim: int, num_heads: int, *, bias: bool, k_bias: bool, rngs: nnx.Rngs) -> None:
        self.relative_position_bias_table = make_table(self.grid_size, num_heads)
        super()._add_inputs(dim, num_heads, bias=bias, k_bias=k_bias, rngs=rngs)


class RelativePositionGroupedQueryAttention(RelativePositionAttention, GroupedQueryAttention):
    """The same with projections of their own for query, key and value; arguments as of both."""
