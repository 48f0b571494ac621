"""Attention of a map's tokens to a smaller map. Twin: `vit_jax/layers/reduction.py`.

Source: Wang et al. 2021, arXiv:2102.12122, eq. 2 and 3 (keys and values of a map that a convolution has shrunk), and
arXiv:2106.13797, section 3.1 (its linear variant: of 7 x 7 means, whatever the map's size). The norm behind the
convolution has an epsilon of 1e-5 in the authors' code and in timm, where the other norms of a block have 1e-6;
transformers has one for all.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from parity.configs import Execution

from .. import random
from .act import gelu
from .attention import Bias, Mask
from .cross_attention import CrossAttention
from .linear import Conv
from .norm import LayerNorm, Norm
from .rope import Rotation

Map = Float[Tensor, "b h w d"]
# The side of the map of means.
_MEANS = 7


class ReducedAttention(CrossAttention):
    """Multi-head attention of the tokens of a map to norm(sr(map)), or in the linear variant gelu(norm(sr(means))).

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        ratio: By how much the sides of the smaller map are smaller; 1 for the map itself, without a convolution.
        linear: Whether means take the place of the smaller map, whatever the ratio is.
        norm: The kind of the norm.
        options: The other arguments of `CrossAttention`.

    Raises:
        ValueError: The heads don't divide the width.
    """

    channels_first: ClassVar = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        ratio: int = 1,
        linear: bool = False,
        norm: Norm = LayerNorm,
        **options: Any,
    ):
        super().__init__(dim, num_heads, **options)
        self.linear = linear
        side = 1 if linear else ratio
        size: dict[str, Any] = dict(kernel_size=(side, side), stride=(side, side))
        shrinks = linear or ratio > 1
        self.sr = Conv(dim, dim, **size) if shrinks else None
        self.norm = norm(dim) if shrinks else None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Map,
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Map:
        """Gathers from the smaller map what each token asks for.

        Args:
            x: A map, of any size.
            rotation: None, for these tokens have no rotary positions.
            mask: The same as in `CrossAttention`.
            bias: The same as in `CrossAttention`.
            key: The key of dropout; without one, what `Dropout.source` says.
            execution: How to run it.
        """
        tokens, context = (each.flatten(1, 2) for each in (x, self._reduced(x)))
        tokens = super().forward(tokens, context, mask=mask, bias=bias, key=key, execution=execution)
        return tokens.reshape(x.shape)

    def _reduced(self, x: Map) -> Map:
        if self.sr is None or self.norm is None:
            return x
        x = adaptive_means(x, _MEANS) if self.linear else x
        x = self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return gelu(x) if self.linear else x


def adaptive_means(x: Map, side: int) -> Float[Tensor, "b s s d"]:
    """The means of so many parts down and across, which overlap where they don't divide the map."""
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
