"""Attention inside the windows of a map. Twin: `vit_jax/layers/window.py`.

Source: Liu et al. 2021, arXiv:2103.14030, section 3.2, with a table of biases by relative position (eq. 4); Liu et al.
2022, arXiv:2111.09883, section 3.3 and 3.4, with cosine scores (eq. 2) and biases that a small network makes of
logarithmic distances (eq. 3 and 4).

Every second block moves its windows by half of their size: the map is rolled, and tokens that come to lie side by side
so get -100 added to their scores. Where other projects differ: timm rolls the map and then fills it up to whole
windows, torchvision and transformers fill it up first; Microsoft's code takes no map that windows don't divide. What
each does about a map that is smaller than a window is in `parity/configs/windows.py`. The bias of Swin V2 is
16 sigmoid(network), and its temperature is at least 0.01; the paper says neither of the first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution
from parity.configs.rel_pos import relative_position_index
from parity.configs.windows import log_distances, padded, shift_bias

from .. import random
from .attention import Attention, Bias, Mask
from .linear import Linear
from .rope import Rotation

Map = Float[Tensor, "b h w d"]
Pair = tuple[int, int]

# The greatest logarithm of a factor of cosine scores: a temperature of 0.01.
MAX_LOGIT_SCALE = math.log(100)


def cut_windows(x: Map, window_size: Pair, shift: Pair, *, pad_first: bool = False) -> Float[Tensor, "b*windows n d"]:
    """The windows of a map, which is moved up and to the left, and filled up with zeros to whole windows.

    Args:
        x: A map.
        window_size: Height and width of a window.
        shift: By how much the map is moved.
        pad_first: Whether it is filled up before it is moved.
    """
    height, width = padded((x.shape[1], x.shape[2]), window_size)
    fill = (0, 0, 0, width - x.shape[2], 0, height - x.shape[1])
    x = F.pad(x, fill) if pad_first else x
    x = torch.roll(x, (-shift[0], -shift[1]), (1, 2)) if any(shift) else x
    x = x if pad_first else F.pad(x, fill)
    return rearrange(x, "b (i h) (j w) d -> (b i j) (h w) d", h=window_size[0], w=window_size[1])


def join_windows(
    x: Float[Tensor, "b*windows n d"], grid_size: Pair, window_size: Pair, shift: Pair, *, pad_first: bool = False
) -> Map:
    """The inverse of `cut_windows`; `grid_size` is the size of the map."""
    height, width = padded(grid_size, window_size)
    down, across = height // window_size[0], width // window_size[1]
    x = rearrange(x, "(b i j) (h w) d -> b (i h) (j w) d", i=down, j=across, h=window_size[0], w=window_size[1])
    x = x if pad_first else x[:, : grid_size[0], : grid_size[1]]
    x = torch.roll(x, shift, (1, 2)) if any(shift) else x
    return x[:, : grid_size[0], : grid_size[1]]


class WindowAttention(Attention):
    """Self-attention of the tokens in each window of a map, biased by a table of relative positions.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        window_size: Height and width of a window.
        shift: By how much the windows are moved, down and to the right.
        pad_first: Whether the map is filled up to whole windows before they are moved.
        shift_mask: What is added to the scores of tokens that a shift brought side by side.
        options: The other arguments of `Attention`.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: Pair,
        shift: Pair = (0, 0),
        pad_first: bool = False,
        shift_mask: float = -100.0,
        **options: Any,
    ):
        self.window_size = window_size
        self.shift = shift
        self.pad_first = pad_first
        self.shift_mask = shift_mask
        super().__init__(dim, num_heads, **options)

    def forward(
        self,
        x: Map,
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Map:
        """Mixes the tokens of each window.

        Args:
            x: A map, of any size.
            rotation: The same as in `Attention`, of the tokens of a window.
            mask: The same as in `Attention`, of all windows.
            bias: The same as in `Attention`, of all windows.
            key: The key of dropout; without one, what `Dropout.source` says.
            execution: How to run it.
        """
        grid_size = (x.shape[1], x.shape[2])
        given: dict[str, Any] = dict(pad_first=self.pad_first)
        windows = cut_windows(x, self.window_size, self.shift, **given)
        own = self._positions()
        own = own if bias is None else own + bias
        if any(self.shift):
            size = padded(grid_size, self.window_size)
            apart = torch.tensor(shift_bias(size, self.window_size, self.shift, self.shift_mask)).to(own)
            own = (own + apart[:, None]).repeat(x.shape[0], 1, 1, 1)
        windows = super().forward(windows, rotation=rotation, mask=mask, bias=own, key=key, execution=execution)
        return join_windows(windows, grid_size, self.window_size, self.shift, **given)

    def _add_inputs(self, dim: int, num_heads: int, *, bias: bool, k_bias: bool) -> None:
        self._add_positions(num_heads)
        super()._add_inputs(dim, num_heads, bias=bias, k_bias=k_bias)

    def _add_positions(self, num_heads: int) -> None:
        height, width = self.window_size
        rows = (2 * height - 1) * (2 * width - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))

    def _positions(self) -> Float[Tensor, "nh n n"]:
        """The bias of every pair of tokens of a window."""
        return self._of_pairs(self.relative_position_bias_table)

    def _of_pairs(self, table: Float[Tensor, "rows nh"]) -> Float[Tensor, "nh n n"]:
        # Without the class token, which is the first of BEiT's.
        index = torch.tensor(relative_position_index(self.window_size)[1:, 1:], device=table.device)
        return table[index].permute(2, 0, 1)


class CosineWindowAttention(WindowAttention):
    """The same with cosines of query and key times a learned factor, and biases that a network makes of distances.

    The key has no bias.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        trained_window: The side of the window that the weights were trained with, which distances are parts of; 0 for
            the same.
        hidden_dim: The hidden width of the network of positions.
        options: The other arguments of `WindowAttention`.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(self, dim: int, num_heads: int, *, trained_window: int = 0, hidden_dim: int = 512, **options: Any):
        self.trained_window = trained_window
        self.hidden_dim = hidden_dim
        self.max_logit_scale = MAX_LOGIT_SCALE
        super().__init__(dim, num_heads, k_bias=False, **options)
        self.scale = 1.0

    def attend(
        self, q: Float[Tensor, "b n nh hd"], k: Float[Tensor, "b m nh hd"], v: Float[Tensor, "b m nh hd"], **given: Any
    ) -> Float[Tensor, "b n nh*hd"]:
        """Mixes the values of each window, heads side by side; arguments as of `AttentionCore`."""
        factor = self.logit_scale.clamp(max=self.max_logit_scale).exp()[..., 0]
        return super().attend(_unit(q) * factor, _unit(k), v, **given)

    def _add_positions(self, num_heads: int) -> None:
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        first = Linear(2, self.hidden_dim)
        self.cpb_mlp = nn.ModuleDict({"0": first, "2": Linear(self.hidden_dim, num_heads, bias=False)})

    def _positions(self) -> Float[Tensor, "nh n n"]:
        first, last = self.cpb_mlp["0"], self.cpb_mlp["2"]
        distances = torch.tensor(log_distances(self.window_size, self.trained_window)).to(self.logit_scale)
        table = last(torch.relu(first(distances)))
        return 16 * torch.sigmoid(self._of_pairs(table.to(distances.dtype)))


def _unit(x: Float[Tensor, "... hd"]) -> Float[Tensor, "... hd"]:
    """Vectors of length 1, x / max(|x|, 1e-12), in float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # The square is kept from 0, where its root has no derivative.
    return wide * wide.square().sum(dim=-1, keepdim=True).clamp(min=1e-24).rsqrt()
