"""Normalisation and LayerScale. Twin: `vit_jax/layers/norm.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import VitConfig


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Args:
        dim: Size of the last axis.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, *, eps: float):
        super().__init__(dim, eps=eps)


class RmsNorm(nn.Module):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467).

    The mean is taken in float32 or better.

    Args:
        dim: Size of the last axis.
        eps: Added to the mean square.
    """

    def __init__(self, dim: int, *, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Normalises the last axis."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(torch.mean(torch.square(wide), dim=-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype)


def make_norm(config: VitConfig, dim: int) -> LayerNorm | RmsNorm:
    """The kind of norm that a config asks for, over `dim` channels."""
    return {"layernorm": LayerNorm, "rmsnorm": RmsNorm}[config.norm](dim, eps=config.norm_eps)


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
