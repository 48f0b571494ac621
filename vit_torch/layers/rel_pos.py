"""BEiT's learned bias of attention by relative position. Twin: `vit_jax/layers/rel_pos.py`.

Source: Bao et al. 2021, arXiv:2106.08254; the table is Raffel et al.'s (2020, arXiv:1910.10683) over two axes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import VitConfig
from parity.configs.rel_pos import relative_position_index


def make_table(config: VitConfig) -> nn.Parameter:
    """A table of zeros: a row for each relative position, a column for each head."""
    rows = int(relative_position_index(config.grid_size).max()) + 1
    return nn.Parameter(torch.zeros(rows, config.num_heads))


def relative_position_bias(table: Float[Tensor, "rows nh"], grid_size: tuple[int, int]) -> Float[Tensor, "nh n n"]:
    """The bias of every pair of tokens: a class token, then the patches of the grid."""
    index = torch.tensor(relative_position_index(grid_size), device=table.device)
    return table[index].permute(2, 0, 1)


class RelativePositionBias(nn.Module):
    """A table that all blocks share.

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.grid_size = config.grid_size
        self.relative_position_bias_table = make_table(config)

    def forward(self) -> Float[Tensor, "nh n n"]:
        """The bias of every pair of tokens."""
        return relative_position_bias(self.relative_position_bias_table, self.grid_size)
