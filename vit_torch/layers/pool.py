"""From tokens to one vector for each image. Twin: `vit_jax/layers/pool.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution, VitConfig

from .attention import dot_product_attention
from .linear import Linear
from .mlp import Mlp
from .norm import LayerNorm


class AttentionPool(nn.Module):
    """Attention of one learned query over the tokens, then an MLP: the MAP head of SigLIP.

    Source: Zhai et al. 2022, arXiv:2106.04560, section 3.2 (after Lee et al. 2019, arXiv:1810.00825).

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        dim, num_heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
        self.scale = head_dim**-0.5
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q = Linear(dim, (num_heads, head_dim))
        self.kv = Linear(dim, (2, num_heads, head_dim))
        self.proj = Linear(dim, dim)
        self.norm = LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, config.mlp_dim, act=config.act)

    def forward(self, x: Float[Tensor, "b n d"], *, execution: Execution = Execution()) -> Float[Tensor, "b d"]:
        """Pools the tokens of each image."""
        q = self.q(torch.broadcast_to(self.latent, (x.shape[0], 1, x.shape[-1])))
        kv = self.kv(x)
        k, v = kv[:, :, 0], kv[:, :, 1]
        x = dot_product_attention(q, k, v, scale=self.scale, execution=execution)
        x = self.proj(x.reshape(*x.shape[:2], -1))
        x = x + self.mlp(self.norm(x))
        return x[:, 0]
