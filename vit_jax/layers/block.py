"""The pre-norm Transformer block. Twin: `vit_torch/layers/block.py`."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution, VitConfig

from .. import random
from .attention import Attention
from .drop import drop_path
from .mlp import MLPS
from .norm import LayerNorm, LayerScale


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 2 and 3).

    Args:
        config: Of the model that the block is part of.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        dim, eps, scale_init = config.embed_dim, config.norm_eps, config.layer_scale_init
        self.norm1 = LayerNorm(dim, eps=eps, rngs=rngs)
        self.attn = Attention(
            dim,
            num_heads=config.num_heads,
            qkv_bias=config.qkv_bias,
            drop_rate=config.drop_rate,
            attn_drop_rate=config.attn_drop_rate,
            rngs=rngs,
        )
        self.ls1 = None if scale_init is None else LayerScale(dim, init=scale_init)
        self.norm2 = LayerNorm(dim, eps=eps, rngs=rngs)
        self.mlp = MLPS[config.mlp](dim, config.mlp_dim, act=config.act, drop_rate=config.drop_rate, rngs=rngs)
        self.ls2 = None if scale_init is None else LayerScale(dim, init=scale_init)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        drop_path_rate: float | Float[Array, ""] | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n d"]:
        """Transforms the tokens; the rate is an argument, so blocks that differ in nothing else can be scanned."""
        key_attn, key_mlp, key_path1, key_path2 = random.split(key, 4)
        y = self.attn(self.norm1(x), key=key_attn, execution=execution)
        y = y if self.ls1 is None else self.ls1(y)
        x = x + drop_path(y, drop_path_rate, key_path1)
        y = self.mlp(self.norm2(x), key=key_mlp)
        y = y if self.ls2 is None else self.ls2(y)
        return x + drop_path(y, drop_path_rate, key_path2)
