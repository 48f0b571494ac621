"""Normalisation over the channels, and LayerScale. Twin: `vit_jax/layers/norm.py`.

Which norm a layer has is given to it as a `Norm`: a class, or `partial(LayerNorm, eps=1e-5)`. Epsilons belong to the
source of the weights: LayerNorm's is 1e-5 in PyTorch's own default, CLIP and DINOv3, 1e-6 in Flax's default, timm's
ViTs, MAE and DINOv2, and 1e-12 in ViT and BEiT at Hugging Face. 1e-5 for 1e-6 moves the logits of a ViT-B by 3e-3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Called as `norm(dim)`.
Norm = Callable[..., nn.Module]


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis (Ba et al. 2016, arXiv:1607.06450, eq. 4).

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, with the biased variance (the mean of dim squares), computed
    in float32 or better; the result is of the wider type of x and weight.

    Args:
        dim: The size of the last axis.
        eps: What is added to the variance.
        init: The start value of every weight.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6, init: float = 1.0):
        super().__init__(dim, eps=eps)
        nn.init.constant_(self.weight, init)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalises the last axis."""
        return super().forward(x.to(torch.promote_types(x.dtype, self.weight.dtype)))


class RmsNorm(nn.Module):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4).

    y = x / sqrt(mean(x^2) + eps) * weight. The mean is taken and the weight applied in float32 or better, and the
    result is of the wider type of x and weight; Llama's code rounds to the input's precision before the weight.

    Args:
        dim: The size of the last axis.
        eps: What is added to the mean square.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Normalises the last axis."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(torch.mean(torch.square(wide), dim=-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(torch.promote_types(x.dtype, self.weight.dtype))


class GroupNorm(nn.GroupNorm):
    """Normalisation of each image over groups of channels and all places (Wu and He 2018, arXiv:1803.08494, eq. 1).

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, with a mean and a biased variance for each image and group,
    computed in float32 or better; the result is of the wider type of x and weight.

    Args:
        dim: The number of channels, the second axis.
        groups: How many groups there are; neighbours are in one.
        eps: What is added to the variance.

    Raises:
        ValueError: The groups don't divide the channels.
    """

    def __init__(self, dim: int, *, groups: int = 1, eps: float = 1e-5):
        if groups < 1 or dim % groups:
            raise ValueError(f"groups: got {groups}, expected a divisor of dim {dim}")
        super().__init__(groups, dim, eps=eps)

    def forward(self, x: Float[Tensor, "b d *rest"]) -> Float[Tensor, "b d *rest"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalises each group of channels."""
        return super().forward(x.to(torch.promote_types(x.dtype, self.weight.dtype)))


class LayerScale(nn.Module):
    """A learned factor for each channel (CaiT, Touvron et al. 2021, arXiv:2103.17239, eq. 4): y = gamma * x.

    The result is of the wider type of x and gamma.

    Args:
        dim: The size of the last axis.
        init: The start value of every factor: CaiT takes 0.1 to 1e-6, less in deeper models.
    """

    def __init__(self, dim: int, *, init: float = 1e-5):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Scales the last axis."""
        return x * self.gamma
