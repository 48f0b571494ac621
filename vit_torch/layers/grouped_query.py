"""Attention whose query, key and value have projections of their own. Twin: `vit_jax/layers/grouped_query.py`.

Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.2. With fewer heads of key and value than of query, each is
shared by a group of neighbouring heads; with one it is multi-query attention (Shazeer 2019, arXiv:1911.02150), with as
many it is multi-head attention whose projections aren't one, as in EVA-02, Sapiens2 and Llama.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from .attention import Attention
from .linear import Linear


class GroupedQueryAttention(Attention):
    """Self-attention by `q_proj`, `k_proj` and `v_proj`, whose keys and values may have fewer heads.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads of the query; divides the width.
        num_kv_heads: The number of heads of key and value; divides that of the query. None for as many.
        options: The other arguments of `Attention`.

    Raises:
        ValueError: The heads don't divide the width, or those of key and value the query's.
    """

    def __init__(self, dim: int, num_heads: int, *, num_kv_heads: int | None = None, **options: Any):
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if self.num_kv_heads < 1 or num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads: got {num_kv_heads}, expected a divisor of num_heads {num_heads}")
        super().__init__(dim, num_heads, **options)

    def _add_inputs(self, dim: int, num_heads: int, *, bias: bool, k_bias: bool) -> None:
        head_dim = dim // num_heads
        self.q_proj = Linear(dim, (num_heads, head_dim), bias=bias)
        self.k_proj = Linear(dim, (self.num_kv_heads, head_dim), bias=k_bias)
        self.v_proj = Linear(dim, (self.num_kv_heads, head_dim), bias=bias)

    def _project(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n heads hd"], ...]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)
