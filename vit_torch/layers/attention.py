"""Scaled dot-product attention and the self-attention of a block. Twin: `vit_jax/layers/attention.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Dosovitskiy et al. 2020, arXiv:2010.11929, appendix A.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution, VitConfig

from .. import random
from .drop import dropout
from .linear import Linear
from .norm import RmsNorm, make_norm
from .rel_pos import make_table, relative_position_bias
from .rope import Rotation, rotate


def dot_product_attention(
    q: Float[Tensor, "b n nh hd"],
    k: Float[Tensor, "b m nh hd"],
    v: Float[Tensor, "b m nh hd"],
    *,
    scale: float,
    bias: Float[Tensor, "nh n m"] | None = None,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
    execution: Execution,
) -> Float[Tensor, "b n nh hd"]:
    """softmax(scale * q k^T + bias) v, by the framework's fused entry or by the reference.

    float64 always takes the reference, as the twin must, whose fused entry falls back to float32. So do dropout and
    values of another width than the keys.
    """
    drops = key is not None and drop_rate > 0
    fused = execution.attention == "fused" and q.dtype != torch.float64 and q.shape[-1] == v.shape[-1] and not drops
    if not fused:
        return reference_attention(q, k, v, scale=scale, bias=bias, drop_rate=drop_rate, key=key)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).transpose(1, 2)


def reference_attention(
    q: Float[Tensor, "b n nh hd"],
    k: Float[Tensor, "b m nh hd"],
    v: Float[Tensor, "b m nh hd"],
    *,
    scale: float,
    bias: Float[Tensor, "nh n m"] | None = None,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
) -> Float[Tensor, "b n nh hd"]:
    """Matmul, softmax, matmul; the softmax in float32 or better."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q * scale, k)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores if bias is None else scores + bias
    weights = F.softmax(scores, dim=-1).to(v.dtype)
    weights = dropout(weights, drop_rate, key)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v)


class AttentionCore(nn.Module):
    """What happens between the projections: norms of query and key, rotation, and softmax attention or its difference.

    Differential attention (Ye et al. 2024, arXiv:2410.05258, eq. 1 to 3) splits each head of query and key in two and
    subtracts one attention from the other, times a learned factor.

    Args:
        config: Of the model that the layer is part of.
        index: Of the block; the factor's start value rises with it.
    """

    def __init__(self, config: VitConfig, index: int):
        super().__init__()
        self.differential = config.differential_attention
        self.rotate_half = config.rope is not None and config.rope.rotate_half
        self.attn_drop_rate = config.attn_drop_rate
        head_dim = config.head_dim // 2 if self.differential else config.head_dim
        self.scale = head_dim**-0.5
        self.q_norm = make_norm(config, head_dim) if config.qk_norm else None
        self.k_norm = make_norm(config, head_dim) if config.qk_norm else None
        if self.differential:
            self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * index)
            self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
                nn.Parameter(torch.randn(head_dim) * 0.1) for _ in range(4)
            )
            self.sub_norm = RmsNorm(2 * head_dim, eps=1e-5)

    def attend(
        self,
        q: Float[Tensor, "b n nh hd"],
        k: Float[Tensor, "b n kvh hd"],
        v: Float[Tensor, "b n kvh hd"],
        *,
        rotation: Rotation | None = None,
        bias: Float[Tensor, "nh n n"] | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Tensor, "b n nh*hd"]:
        """Mixes the tokens of each image, heads side by side; fewer heads of key and value are shared by groups."""
        if self.differential:
            return self._attend_differentially(q, k, v, key=key, execution=execution)
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if rotation is not None:
            q, k = (rotate(x, rotation, half=self.rotate_half) for x in (q, k))
        if k.shape[2] < q.shape[2]:
            k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for x in (k, v))
        x = dot_product_attention(
            q, k, v, scale=self.scale, bias=bias, drop_rate=self.attn_drop_rate, key=key, execution=execution
        )
        return x.reshape(*x.shape[:2], -1)

    def _attend_differentially(
        self,
        q: Float[Tensor, "b n nh hd"],
        k: Float[Tensor, "b n nh hd"],
        v: Float[Tensor, "b n nh hd"],
        *,
        key: random.Key | None,
        execution: Execution,
    ) -> Float[Tensor, "b n nh*hd"]:
        q, k = (x.reshape(*x.shape[:3], 2, -1) for x in (q, k))
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        first, second = (
            dot_product_attention(
                q[..., i, :],
                k[..., i, :],
                v,
                scale=self.scale,
                drop_rate=self.attn_drop_rate,
                key=half_key,
                execution=execution,
            )
            for i, half_key in enumerate(random.split(key, 2))
        )
        x = first - self._factor(q.dtype) * second
        x = self.sub_norm(x) * (1 - self.lambda_init)
        return x.reshape(*x.shape[:2], -1)

    def _factor(self, dtype: torch.dtype) -> Float[Tensor, ""]:
        pairs = ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        wide = torch.promote_types(dtype, torch.float32)
        one, two = (torch.exp(torch.sum(q * k).to(wide)) for q, k in pairs)
        return (one - two + self.lambda_init).to(dtype)


class Attention(AttentionCore):
    """Multi-head self-attention with its projections.

    Args:
        config: Of the model that the layer is part of.
        index: Of the block.
    """

    def __init__(self, config: VitConfig, index: int):
        super().__init__(config, index)
        dim, heads, kv_heads = config.embed_dim, config.num_heads, config.kv_heads[index]
        head_dim = config.head_dim
        self.drop_rate = config.drop_rate
        self.grid_size = config.grid_size
        has_table = config.rel_pos_bias == "block"
        self.relative_position_bias_table = make_table(config) if has_table else None
        self.fused = config.qkv_fused
        k_bias = config.qkv_bias and config.k_bias
        if self.fused:
            self.qkv = Linear(dim, (3, heads, head_dim), bias=k_bias)
            without_k = config.qkv_bias and not config.k_bias
            self.q_bias = nn.Parameter(torch.zeros(dim)) if without_k else None
            self.v_bias = nn.Parameter(torch.zeros(dim)) if without_k else None
        else:
            self.q_proj = Linear(dim, (heads, head_dim), bias=config.qkv_bias)
            self.k_proj = Linear(dim, (kv_heads, head_dim), bias=k_bias)
            self.v_proj = Linear(dim, (kv_heads, head_dim), bias=config.qkv_bias)
        self.norm = make_norm(config, dim) if config.attn_norm else None
        self.proj = Linear(dim, dim, bias=config.proj_bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        rotation: Rotation | None = None,
        bias: Float[Tensor, "nh n n"] | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Tensor, "b n d"]:
        """Mixes the tokens of each image.

        Args:
            x: Tokens.
            rotation: Of query and key of the patches.
            bias: Added to the scaled scores, besides the layer's own.
            key: Of dropout.
            execution: How to run it.
        """
        key_attn, key_out = random.split(key, 2)
        q, k, v = self._project(x)
        if self.relative_position_bias_table is not None:
            own = relative_position_bias(self.relative_position_bias_table, self.grid_size)
            bias = own if bias is None else own + bias
        x = self.attend(q, k, v, rotation=rotation, bias=bias, key=key_attn, execution=execution)
        x = x if self.norm is None else self.norm(x)
        return dropout(self.proj(x), self.drop_rate, key_out)

    def _project(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n heads hd"], ...]:
        if not self.fused:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        qkv = self.qkv(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.q_bias is not None and self.v_bias is not None:
            q, v = q + self.q_bias.view_as(q[0, 0]), v + self.v_bias.view_as(v[0, 0])
        return q, k, v
