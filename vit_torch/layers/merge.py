"""Merging of neighbouring tokens, by which a map shrinks. Twin: `vit_jax/layers/merge.py`.

Source: Liu et al. 2021, arXiv:2103.14030, section 3.1: the channels of 2 x 2 tokens side by side, and a linear map.
Swin has its norm before the map, Swin V2 (arXiv:2111.09883) behind it. The four stand column by column, as in
Microsoft's code: that to the upper left, below it, to the upper right, below that. A map with an odd side is filled up
with zeros.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .linear import Linear
from .norm import LayerNorm, Norm


class PatchMerging(nn.Module):
    """reduction(norm(four tokens side by side)).

    Args:
        in_dim: The width of the tokens.
        dim: The width of the merged tokens.
        norm: The kind of the norm.
        norm_last: Whether it stands behind the linear map.
    """

    def __init__(self, in_dim: int, dim: int, *, norm: Norm = LayerNorm, norm_last: bool = False):
        super().__init__()
        self.norm_last = norm_last
        self.norm = norm(dim if norm_last else 4 * in_dim)
        self.reduction = Linear(4 * in_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 d"]:
        """Merges the tokens of a map."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = rearrange(x, "b (h down) (w across) c -> b h w (across down c)", down=2, across=2)
        return self.norm(self.reduction(x)) if self.norm_last else self.reduction(self.norm(x))
