"""Scaled dot-product attention and the self-attention of a block. Twin: `vit_jax/layers/attention.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Dosovitskiy et al. 2020, arXiv:2010.11929, appendix A.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution

from .. import random
from .drop import dropout
from .linear import Linear


def dot_product_attention(
    q: Float[Tensor, "b n nh hd"],
    k: Float[Tensor, "b m nh hd"],
    v: Float[Tensor, "b m nh hd"],
    *,
    scale: float,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
    execution: Execution,
) -> Float[Tensor, "b n nh hd"]:
    """softmax(scale * q k^T) v, by the framework's fused entry or by the reference.

    float64 always takes the reference, as the twin must, whose fused entry falls back to float32. So does dropout.
    """
    drops = key is not None and drop_rate > 0
    if execution.attention == "reference" or drops or q.dtype == torch.float64:
        return reference_attention(q, k, v, scale=scale, drop_rate=drop_rate, key=key)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def reference_attention(
    q: Float[Tensor, "b n nh hd"],
    k: Float[Tensor, "b m nh hd"],
    v: Float[Tensor, "b m nh hd"],
    *,
    scale: float,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
) -> Float[Tensor, "b n nh hd"]:
    """Matmul, softmax, matmul; the softmax in float32 or better."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q * scale, k)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = F.softmax(scores, dim=-1).to(v.dtype)
    weights = dropout(weights, drop_rate, key)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to query, key and value.

    Args:
        dim: Width of the tokens.
        num_heads: Heads; divides `dim`.
        qkv_bias: Whether the fused projection has a bias.
        drop_rate: Dropout after the output projection.
        attn_drop_rate: Dropout of the attention weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ):
        super().__init__()
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.drop_rate = drop_rate
        self.attn_drop_rate = attn_drop_rate
        self.qkv = Linear(dim, (3, num_heads, head_dim), bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Tensor, "b n d"]:
        """Mixes the tokens of each image."""
        key_attn, key_out = random.split(key, 2)
        qkv = self.qkv(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        x = dot_product_attention(
            q, k, v, scale=self.scale, drop_rate=self.attn_drop_rate, key=key_attn, execution=execution
        )
        x = self.proj(x.reshape(*x.shape[:2], -1))
        return dropout(x, self.drop_rate, key_out)
