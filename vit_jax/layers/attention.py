"""Scaled dot-product attention and the self-attention of a block. Twin: `vit_torch/layers/attention.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Dosovitskiy et al. 2020, arXiv:2010.11929, appendix A, eq. 5 to 8.
For each head,

    attention(q, k, v) = softmax(q k^T / sqrt(hd) + bias) v

over the keys that a query may attend to. Variants are classes of their own: `grouped_query`, `differential`, `rel_pos`,
`cross_attention`.

Where other projects differ: timm and Meta have one projection `qkv`, split as (3, heads, head_dim); big_vision, Flax
and Hugging Face have three; EVA and BEiT leave out the key's bias, which no softmax could see, and DINOv3's code masks
it.
`torch.nn.MultiheadAttention` and `F.scaled_dot_product_attention` disagree on boolean masks: True means "leave out" for
the first, "may attend" for the second, for JAX and here. A query that may attend to nothing gets 0 here, in both
frameworks and from any implementation; it is NaN in `torch.nn.MultiheadAttention`, and the mean of all values in JAX.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from parity.checkpoints.leaf import Leaf
from parity.configs import Execution

from .. import random
from .drop import Dropout, dropout
from .linear import Linear, add_bias
from .norm import Norm
from .rope import Rotation, rotate

# True where a query may attend to a key; any axis but the keys' may be 1 or, from the left, missing.
Mask = Bool[Array, "*b_nh_n m"]
# What is added to the scaled scores, of such a shape.
Bias = Float[Array, "*b_nh_n m"]


def dot_product_attention(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    *,
    scale: float,
    mask: Mask | None = None,
    bias: Bias | None = None,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
    execution: Execution = Execution(),
) -> Float[Array, "b n nh hd"]:
    """softmax(scale * q k^T + bias) v, by the framework's fused entry or by the reference.

    float64 always takes the reference: the fused entry computes its softmax in float32. So do dropout and values of
    another width than the keys.

    Args:
        q: Queries, of any number.
        k: Keys.
        v: Values, as many as keys.
        scale: The factor of the scores, usually hd^-0.5.
        mask: Bool, broadcastable to (b, nh, n, m): True where a query may attend to a key. A query that may attend to
            none gets 0.
        bias: Float, broadcastable to (b, nh, n, m); added to the scaled scores.
        drop_rate: The share of weights that dropout zeroes.
        key: The key of dropout; None for no dropout.
        execution: Which implementation runs.

    Raises:
        ValueError: The mask isn't of booleans.
    """
    check_attention_mask(mask)
    drops = key is not None and drop_rate > 0
    fused = execution.attention == "fused" and q.dtype != jnp.float64 and q.shape[-1] == v.shape[-1] and not drops
    if not fused:
        return reference_attention(q, k, v, scale=scale, mask=mask, bias=bias, drop_rate=drop_rate, key=key)
    bias = None if bias is None else _four_axes(bias)
    if mask is None:
        return _fused(q, k, v, bias, None, scale=scale)
    mask = _four_axes(mask)
    some = mask.any(axis=-1, keepdims=True)
    return jnp.where(some.swapaxes(1, 2), _fused(q, k, v, bias, mask, scale=scale), 0)


def reference_attention(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    *,
    scale: float,
    mask: Mask | None = None,
    bias: Bias | None = None,
    drop_rate: float = 0.0,
    key: random.Key | None = None,
) -> Float[Array, "b n nh hd"]:
    """Matmul, softmax, matmul; the softmax in float32 or better. Arguments as of `dot_product_attention`."""
    check_attention_mask(mask)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=wide) * scale
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = weights if mask is None else jnp.where(mask, weights, 0)
    weights = dropout(weights, drop_rate, key)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def _fused(
    q: Float[Array, "b n nh hd"],
    k: Float[Array, "b m nh hd"],
    v: Float[Array, "b m nh hd"],
    bias: Bias | None,
    mask: Mask | None,
    *,
    scale: float,
) -> Float[Array, "b n nh hd"]:
    """JAX's own entry; on a CPU, for which that isn't written, products by head and the division after them."""

    def general(q: Array, k: Array, v: Array, bias: Bias | None, mask: Mask | None) -> Array:
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=scale)

    def heads_first(q: Array, k: Array, v: Array, bias: Bias | None, mask: Mask | None) -> Array:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * scale
        scores = scores if bias is None else scores + bias
        scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        return _mixed(scores, v).swapaxes(1, 2)

    return jax.lax.platform_dependent(q, k, v, bias, mask, cpu=heads_first, default=general)


@jax.custom_jvp
def _mixed(scores: Float[Array, "b nh n m"], v: Float[Array, "b nh m hd"]) -> Float[Array, "b nh n hd"]:
    """softmax(scores) v, divided after the product; so is its derivative, which is else a pass over the scores more."""
    return _mixed_and_weights(scores, v)[0].astype(v.dtype)


@_mixed.defjvp
def _mixed_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (scores, v), (scores_dot, v_dot) = primals, tangents
    x, weights, total = _mixed_and_weights(scores, v)
    by_score = weights * scores_dot
    x_dot = _product(by_score.astype(v.dtype), v) + _product(weights.astype(v.dtype), v_dot)
    x_dot = x_dot - x * by_score.sum(axis=-1, keepdims=True)
    return x.astype(v.dtype), (x_dot / total).astype(v.dtype)


def _mixed_and_weights(scores: Array, v: Array) -> tuple[Array, Array, Array]:
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    return _product(weights.astype(v.dtype), v) / total, weights, total


def _product(weights: Array, v: Array) -> Array:
    return jnp.einsum("bhnm,bhmd->bhnd", weights, v, preferred_element_type=jnp.float32)


def causal_mask(queries: int, keys: int | None = None) -> Bool[Array, "n m"]:
    """Each query may attend to its own place and those before it; the queries are the last of the keys.

    Args:
        queries: The number of queries n.
        keys: The number of keys m; None for as many as queries. With more keys than queries, as from a decoder's cache,
            PyTorch's and JAX's own `is_causal` would take the queries for the first of the keys.
    """
    keys = queries if keys is None else keys
    return jnp.tril(jnp.ones((queries, keys), bool), keys - queries)


def check_attention_mask(mask: Mask | None) -> None:
    """Raises ValueError unless a mask, if there is one, is of booleans."""
    if mask is not None and mask.dtype != jnp.bool_:
        expected = "bool, True where a query may attend to a key; what is added to the scores is a bias"
        raise ValueError(f"mask: got {mask.dtype} of shape {tuple(mask.shape)}, expected {expected}")


def head_dim_of(dim: int, num_heads: int) -> int:
    """The width of one head.

    Raises:
        ValueError: The heads don't divide the width.
    """
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"num_heads: got {num_heads}, expected a divisor of dim {dim}")
    return dim // num_heads


class AttentionCore(nnx.Module):
    """What happens between the projections: norms of query and key, their rotation, and softmax attention.

    Args:
        head_dim: The width of one head.
        qk_norm: The norm over each head of query and key (Henry et al. 2020, arXiv:2010.04245); None for none.
        rotate_half: Whether rotary positions pair channels i and i + head_dim / 2 (DINOv3, Llama), or neighbours (EVA).
        attn_drop_rate: Dropout of the attention weights.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        qk_norm: Norm | None = None,
        rotate_half: bool = False,
        attn_drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.scale = head_dim**-0.5
        self.rotate_half = rotate_half
        self.q_norm = None if qk_norm is None else qk_norm(head_dim, rngs=rngs)
        self.k_norm = None if qk_norm is None else qk_norm(head_dim, rngs=rngs)
        self.attn_drop = Dropout(attn_drop_rate)

    def attend(
        self,
        q: Float[Array, "b n nh hd"],
        k: Float[Array, "b m kvh hd"],
        v: Float[Array, "b m kvh hd"],
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n nh*hd"]:
        """Mixes the values of each image, heads side by side; fewer heads of key and value are shared by groups."""
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if rotation is not None:
            q, k = (rotate(x, rotation, half=self.rotate_half) for x in (q, k))
        q, k = (x.astype(v.dtype) for x in (q, k))
        if k.shape[2] < q.shape[2]:
            k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
        rate, key = self.attn_drop.rate, self.attn_drop.source(key)
        x = dot_product_attention(
            q, k, v, scale=self.scale, mask=mask, bias=bias, drop_rate=rate, key=key, execution=execution
        )
        return x.reshape(*x.shape[:2], -1)


class Attention(AttentionCore):
    """Multi-head self-attention with its projections: proj(attention(q(x), k(x), v(x))).

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        qkv_bias: Whether the projections to query, key and value have a bias.
        k_bias: Whether that to the key has one, where the others do.
        proj_bias: Whether the output projection has one.
        qk_norm: The norm over each head of query and key, such as `LayerNorm`; None for none.
        norm: The norm of the mixed values before their projection, over the width; None for none.
        rotate_half: How rotary positions pair channels; see `AttentionCore`.
        attn_drop_rate: Dropout of the attention weights.
        drop_rate: Dropout of the result.
        rngs: The source of the initial values.

    Raises:
        ValueError: The heads don't divide the width.
    """

    leaves: ClassVar = {"q_bias": Leaf("q_bias", "o -> o"), "v_bias": Leaf("v_bias", "o -> o")}

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        k_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: Norm | None = None,
        norm: Norm | None = None,
        rotate_half: bool = False,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = head_dim_of(dim, num_heads)
        super().__init__(head_dim, qk_norm=qk_norm, rotate_half=rotate_half, attn_drop_rate=attn_drop_rate, rngs=rngs)
        self._add_inputs(dim, num_heads, bias=qkv_bias, k_bias=qkv_bias and k_bias, rngs=rngs)
        self.norm = None if norm is None else norm(dim, rngs=rngs)
        self.proj = Linear(dim, dim, bias=proj_bias, axes=("heads", "embed"), rngs=rngs)
        self.drop = Dropout(drop_rate)
        self.logical_axes = (("q_bias", ("heads", None)), ("v_bias", ("heads", None)))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n d"]:
        """Mixes the tokens of each image or text.

        Args:
            x: Tokens.
            rotation: The rotation of query and key of the last tokens, which are the patches.
            mask: Bool, broadcastable to (b, nh, n, n): True where a token may attend to another. A mask of keys (b, n)
                is `mask[:, None, None, :]`; a text's is `causal_mask(n)`.
            bias: Float, broadcastable to (b, nh, n, n); added to the scaled scores.
            key: The key of dropout; without one, what `Dropout.source` says.
            execution: How to run it.
        """
        key_attn, key_out = random.split(key, 2)
        q, k, v = self._project(x)
        x = self.attend(q, k, v, rotation=rotation, mask=mask, bias=bias, key=key_attn, execution=execution)
        x = x if self.norm is None else self.norm(x)
        return self.drop(self.proj(x), key=key_out)

    def _add_inputs(self, dim: int, num_heads: int, *, bias: bool, k_bias: bool, rngs: nnx.Rngs) -> None:
        heads = (num_heads, dim // num_heads)
        self.qkv = Linear(dim, (3, *heads), bias=k_bias, axes=("embed", None, "heads", None), rngs=rngs)
        without_k = bias and not k_bias
        self.q_bias = nnx.Param(jnp.zeros(heads, jnp.float32)) if without_k else None
        self.v_bias = nnx.Param(jnp.zeros(heads, jnp.float32)) if without_k else None

    def _project(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n heads hd"], ...]:
        qkv = self.qkv(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.q_bias is not None and self.v_bias is not None:
            q, v = add_bias(q, self.q_bias), add_bias(v, self.v_bias)
        return q, k, v


def _four_axes(x: Array) -> Array:
    """(b, nh, n, m), of which any but the last may be 1."""
    return x.reshape((1,) * (4 - x.ndim) + x.shape)
