"""From tokens to one vector for each image. Twin: `vit_jax/layers/pool.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution, VitConfig

from .attention import dot_product_attention
from .linear import Linear
from .mlp import Mlp
from .norm import make_norm


class AttentionPool(nn.Module):
    """Attention of one learned query over the tokens, then an MLP: the MAP head of SigLIP.

    Source: Zhai et al. 2022, arXiv:2106.04560, section 3.2 (after Lee et al. 2019, arXiv:1810.00825).

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        dim, num_heads = config.embed_dim, config.attn_pool_heads or config.num_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q = Linear(dim, (num_heads, head_dim))
        self.kv = Linear(dim, (2, num_heads, head_dim))
        self.proj = Linear(dim, dim)
        self.norm = make_norm(config, dim)
        self.mlp = Mlp(dim, config.attn_pool_mlp_dim or config.mlp_dim, act=config.act)

    def forward(self, x: Float[Tensor, "b n d"], *, execution: Execution = Execution()) -> Float[Tensor, "b d"]:
        """Pools the tokens of each image."""
        q = self.q(torch.broadcast_to(self.latent, (x.shape[0], 1, x.shape[-1])))
        kv = self.kv(x)
        k, v = kv[:, :, 0], kv[:, :, 1]
        x = dot_product_attention(q, k, v, scale=self.scale, execution=execution)
        x = self.proj(x.reshape(*x.shape[:2], -1))
        x = x + self.mlp(self.norm(x))
        return x[:, 0]


class PreLogits(nn.Module):
    """A linear layer and tanh between pooling and head (Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1).

    Args:
        dim: Width of the pooled features.
        out_dim: Width of the result.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.fc = Linear(dim, out_dim)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Transforms the pooled features."""
        return torch.tanh(self.fc(x))
