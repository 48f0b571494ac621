"""Scaled dot-product attention and the self-attention of a block. Twin: `vit_torch/layers/attention.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Dosovitskiy et al. 2020, arXiv:2010.11929, appendix A.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution, VitConfig

from .. import random
from .drop import dropout
from .leaf import Leaf
from .linear import Linear
from .norm import RmsNorm, make_norm
from .rel_pos import make_table, relative_position_bias
from .rope import Rotation, rotate


def dot_product_attention(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    *,
    scale: float,
    bias: Float[Array, "nh n m"] | None = None,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
    execution: Execution,
) -> Float[Array, "b n nh hd"]:
    """softmax(scale * q k^T + bias) v, by the framework's fused entry or by the reference.

    float64 always takes the reference: the fused entry computes its softmax in float32. So do dropout and values of
    another width than the keys.
    """
    drops = key is not None and drop_rate > 0
    fused = execution.attention == "fused" and q.dtype != jnp.float64 and q.shape[-1] == v.shape[-1] and not drops
    if not fused:
        return reference_attention(q, k, v, scale=scale, bias=bias, drop_rate=drop_rate, key=key)
    return jax.nn.dot_product_attention(q, k, v, bias=None if bias is None else bias[None], scale=scale)


def reference_attention(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    *,
    scale: float,
    bias: Float[Array, "nh n m"] | None = None,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
) -> Float[Array, "b n nh hd"]:
    """Matmul, softmax, matmul; the softmax in float32 or better."""
    scores = jnp.einsum("bnhd,bmhd->bhnm", q * scale, k)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = scores if bias is None else scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropout(weights, drop_rate, key)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


class AttentionCore(nnx.Module):
    """What happens between the projections: norms of query and key, rotation, and softmax attention or its difference.

    Differential attention (Ye et al. 2024, arXiv:2410.05258, eq. 1 to 3) splits each head of query and key in two and
    subtracts one attention from the other, times a learned factor.

    Args:
        config: Of the model that the layer is part of.
        index: Of the block; the factor's start value rises with it.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, index: int, *, rngs: nnx.Rngs):
        self.differential = config.differential_attention
        self.rotate_half = config.rope is not None and config.rope.rotate_half
        self.attn_drop_rate = config.attn_drop_rate
        head_dim = config.head_dim // 2 if self.differential else config.head_dim
        self.scale = head_dim**-0.5
        self.q_norm = make_norm(config, head_dim, rngs=rngs) if config.qk_norm else None
        self.k_norm = make_norm(config, head_dim, rngs=rngs) if config.qk_norm else None
        if self.differential:
            self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * index)
            self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
                nnx.Param(jax.random.normal(rngs.params(), (head_dim,), jnp.float32) * 0.1) for _ in range(4)
            )
            self.sub_norm = RmsNorm(2 * head_dim, eps=1e-5, rngs=rngs)

    def attend(
        self,
        q: Float[Array, "b n nh hd"],
        k: Float[Array, "b n kvh hd"],
        v: Float[Array, "b n kvh hd"],
        *,
        rotation: Rotation | None = None,
        bias: Float[Array, "nh n n"] | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n nh*hd"]:
        """Mixes the tokens of each image, heads side by side; fewer heads of key and value are shared by groups."""
        if self.differential:
            return self._attend_differentially(q, k, v, key=key, execution=execution)
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if rotation is not None:
            q, k = (rotate(x, rotation, half=self.rotate_half) for x in (q, k))
        if k.shape[2] < q.shape[2]:
            k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
        x = dot_product_attention(
            q, k, v, scale=self.scale, bias=bias, drop_rate=self.attn_drop_rate, key=key, execution=execution
        )
        return x.reshape(*x.shape[:2], -1)

    def _attend_differentially(
        self,
        q: Float[Array, "b n nh hd"],
        k: Float[Array, "b n nh hd"],
        v: Float[Array, "b n nh hd"],
        *,
        key: random.Key | None,
        execution: Execution,
    ) -> Float[Array, "b n nh*hd"]:
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

    def _factor(self, dtype: jnp.dtype) -> Float[Array, ""]:
        pairs = ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        wide = jnp.promote_types(dtype, jnp.float32)
        one, two = (jnp.exp(jnp.sum(q[...] * k[...]).astype(wide)) for q, k in pairs)
        return (one - two + self.lambda_init).astype(dtype)


class Attention(AttentionCore):
    """Multi-head self-attention with its projections.

    Args:
        config: Of the model that the layer is part of.
        index: Of the block.
        rngs: Source of the initial values.
    """

    leaves: ClassVar = {"q_bias": Leaf("q_bias", "o -> o"), "v_bias": Leaf("v_bias", "o -> o")}

    def __init__(self, config: VitConfig, index: int, *, rngs: nnx.Rngs):
        super().__init__(config, index, rngs=rngs)
        dim, heads, kv_heads = config.embed_dim, config.num_heads, config.kv_heads[index]
        head_dim = config.head_dim
        self.drop_rate = config.drop_rate
        self.grid_size = config.grid_size
        has_table = config.rel_pos_bias == "block"
        self.relative_position_bias_table = make_table(config) if has_table else None
        self.fused = config.qkv_fused
        k_bias = config.qkv_bias and config.k_bias
        if self.fused:
            axes = ("embed", None, "heads", None)
            self.qkv = Linear(dim, (3, heads, head_dim), bias=k_bias, axes=axes, rngs=rngs)
            without_k = config.qkv_bias and not config.k_bias
            self.q_bias = nnx.Param(jnp.zeros((heads, head_dim), jnp.float32)) if without_k else None
            self.v_bias = nnx.Param(jnp.zeros((heads, head_dim), jnp.float32)) if without_k else None
        else:
            axes = ("embed", "heads", None)
            self.q_proj = Linear(dim, (heads, head_dim), bias=config.qkv_bias, axes=axes, rngs=rngs)
            self.k_proj = Linear(dim, (kv_heads, head_dim), bias=k_bias, axes=axes, rngs=rngs)
            self.v_proj = Linear(dim, (kv_heads, head_dim), bias=config.qkv_bias, axes=axes, rngs=rngs)
        self.norm = make_norm(config, dim, rngs=rngs) if config.attn_norm else None
        self.proj = Linear(dim, dim, bias=config.proj_bias, axes=("heads", "embed"), rngs=rngs)
        self.logical_axes = (("q_bias", ("heads", None)), ("v_bias", ("heads", None)))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rotation: Rotation | None = None,
        bias: Float[Array, "nh n n"] | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n d"]:
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
            own = relative_position_bias(self.relative_position_bias_table[...], self.grid_size)
            bias = own if bias is None else own + bias
        x = self.attend(q, k, v, rotation=rotation, bias=bias, key=key_attn, execution=execution)
        x = x if self.norm is None else self.norm(x)
        return dropout(self.proj(x), self.drop_rate, key_out)

    def _project(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n heads hd"], ...]:
        if not self.fused:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        qkv = self.qkv(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.q_bias is not None and self.v_bias is not None:
            q, v = q + self.q_bias[...], v + self.v_bias[...]
        return q, k, v
