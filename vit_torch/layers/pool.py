"""From tokens to one vector for each image. Twin: `vit_jax/layers/pool.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution

from .attention import Mask
from .cross_attention import CrossAttention
from .linear import Linear
from .mlp import Mlp
from .norm import LayerNorm, Norm


class AttentionPool(CrossAttention):
    """Attention of one learned query over the tokens, then an MLP: y + mlp(norm(y)) of y = cross_attention(latent, x).

    Source: Zhai et al. 2022, arXiv:2106.04560, section 3.2 (after Lee et al. 2019, arXiv:1810.00825): the MAP head of
    SigLIP, named as timm's. big_vision and Hugging Face call the query `probe`.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        mlp_dim: The hidden width of the MLP.
        norm: The kind of the norm before the MLP.
        act: The name of the MLP's activation, one of `ACTIVATIONS`.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, norm: Norm = LayerNorm, act: str = "gelu"):
        latent = torch.randn(1, 1, dim) * dim**-0.5
        super().__init__(dim, num_heads)
        self.latent = nn.Parameter(latent)
        self.norm = norm(dim)
        self.mlp = Mlp(dim, mlp_dim, act=act)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n d"], *, mask: Mask | None = None, execution: Execution = Execution()
    ) -> Float[Tensor, "b d"]:
        """Pools the tokens of each image.

        Args:
            x: Tokens.
            mask: Bool, broadcastable to (b, nh, 1, n): True for tokens that count.
            execution: How to run it.
        """
        latent = torch.broadcast_to(self.latent, (x.shape[0], 1, x.shape[-1]))
        x = super().forward(latent, x, mask=mask, execution=execution).to(latent.dtype)
        x = x + self.mlp(self.norm(x))
        return x[:, 0]


class PreLogits(nn.Module):
    """A linear layer and tanh between pooling and head: tanh(fc(x)).

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1, where pre-training has it; Hugging Face calls it the
    pooler.

    Args:
        dim: The width of the pooled features.
        out_dim: The width of the result.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.fc = Linear(dim, out_dim)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Transforms the pooled features."""
        return torch.tanh(self.fc(x))
