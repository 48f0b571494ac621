"""Normalisation and LayerScale. Twin: `vit_jax/layers/norm.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Args:
        dim: Size of the last axis.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, *, eps: float):
        super().__init__(dim, eps=eps)


class LayerScale(nn.Module):
    """A learned factor for each channel (CaiT, Touvron et al. 2021, arXiv:2103.17239, eq. 4).

    Args:
        dim: Size of the last axis.
        init: Start value of every factor.
    """

    def __init__(self, dim: int, *, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Scales the last axis."""
        return x * self.gamma
