"""Scaled dot-product attention and the self-attention of a block. Twin: `vit_torch/layers/attention.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Dosovitskiy et al. 2020, arXiv:2010.11929, appendix A.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution

from .. import random
from .drop import dropout
from .linear import Linear


def dot_product_attention(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    *,
    scale: float,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
    execution: Execution,
) -> Float[Array, "b n nh hd"]:
    """softmax(scale * q k^T) v, by the framework's fused entry or by the reference.

    float64 always takes the reference: the fused entry computes its softmax in float32. So does dropout.
    """
    drops = key is not None and drop_rate > 0
    if execution.attention == "reference" or drops or q.dtype == jnp.float64:
        return reference_attention(q, k, v, scale=scale, drop_rate=drop_rate, key=key)
    return jax.nn.dot_product_attention(q, k, v, scale=scale)


def reference_attention(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    *,
    scale: float,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
) -> Float[Array, "b n nh hd"]:
    """Matmul, softmax, matmul; the softmax in float32 or better."""
    scores = jnp.einsum("bnhd,bmhd->bhnm", q * scale, k)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropout(weights, drop_rate, key)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection to query, key and value.

    Args:
        dim: Width of the tokens.
        num_heads: Heads; divides `dim`.
        qkv_bias: Whether the fused projection has a bias.
        drop_rate: Dropout after the output projection.
        attn_drop_rate: Dropout of the attention weights.
        rngs: Source of the initial values.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.drop_rate = drop_rate
        self.attn_drop_rate = attn_drop_rate
        qkv_axes = ("embed", None, "heads", None)
        self.qkv = Linear(dim, (3, num_heads, head_dim), bias=qkv_bias, axes=qkv_axes, rngs=rngs)
        self.proj = Linear(dim, dim, axes=("heads", "embed"), rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n d"]:
        """Mixes the tokens of each image."""
        key_attn, key_out = random.split(key, 2)
        qkv = self.qkv(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        x = dot_product_attention(
            q, k, v, scale=self.scale, drop_rate=self.attn_drop_rate, key=key_attn, execution=execution
        )
        x = self.proj(x.reshape(*x.shape[:2], -1))
        return dropout(x, self.drop_rate, key_out)
