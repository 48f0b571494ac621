"""Attention of one sequence to another. Twin: `vit_torch/layers/cross_attention.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3: queries come from the one, keys and values from the other.
Names are those of timm's `AttentionPoolLatent`: `q`, and `kv` as one projection, split as (2, heads, head_dim).
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution

from .. import random
from .attention import AttentionCore, Bias, Mask, head_dim_of
from .drop import Dropout
from .linear import Linear
from .norm import Norm


class CrossAttention(AttentionCore):
    """Multi-head attention with its projections: proj(attention(q(x), k(context), v(context))).

    Args:
        dim: The width of the tokens that ask.
        num_heads: The number of heads; divides the width.
        context_dim: The width of the tokens that are attended to; None for the same.
        qkv_bias: Whether the projections to query, key and value have a bias.
        proj_bias: Whether the output projection has one.
        qk_norm: The norm over each head of query and key, such as `LayerNorm`; None for none.
        attn_drop_rate: Dropout of the attention weights.
        drop_rate: Dropout of the result.
        rngs: The source of the initial values.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: Norm | None = None,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = head_dim_of(dim, num_heads)
        super().__init__(head_dim, qk_norm=qk_norm, attn_drop_rate=attn_drop_rate, rngs=rngs)
        context_dim = dim if context_dim is None else context_dim
        axes, kv_axes = ("embed", "heads", None), ("embed", None, "heads", None)
        self.q = Linear(dim, (num_heads, head_dim), bias=qkv_bias, axes=axes, rngs=rngs)
        self.kv = Linear(context_dim, (2, num_heads, head_dim), bias=qkv_bias, axes=kv_axes, rngs=rngs)
        self.proj = Linear(dim, dim, bias=proj_bias, axes=("heads", "embed"), rngs=rngs)
        self.drop = Dropout(drop_rate)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m c"],
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n d"]:
        """Gathers from the context what each token asks for.

        Args:
            x: Tokens that ask.
            context: Tokens that are attended to.
            mask: Bool, broadcastable to (b, nh, n, m): True where a token may attend to one of the context.
            bias: Float, broadcastable to (b, nh, n, m); added to the scaled scores.
            key: The key of dropout; without one, what `Dropout.source` says.
            execution: How to run it.
        """
        key_attn, key_out = random.split(key, 2)
        q, kv = self.q(x), self.kv(context)
        x = self.attend(q, kv[:, :, 0], kv[:, :, 1], mask=mask, bias=bias, key=key_attn, execution=execution)
        return self.drop(self.proj(x), key=key_out)
