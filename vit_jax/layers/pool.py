"""From tokens to one vector for each image. Twin: `vit_torch/layers/pool.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution, VitConfig

from .attention import dot_product_attention
from .linear import Linear
from .mlp import Mlp
from .norm import make_norm


class AttentionPool(nnx.Module):
    """Attention of one learned query over the tokens, then an MLP: the MAP head of SigLIP.

    Source: Zhai et al. 2022, arXiv:2106.04560, section 3.2 (after Lee et al. 2019, arXiv:1810.00825).

    Args:
        config: Of the model that the layer is part of.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        dim, num_heads = config.embed_dim, config.attn_pool_heads or config.num_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.latent = nnx.Param(jax.random.normal(rngs.params(), (1, 1, dim), jnp.float32) * dim**-0.5)
        self.q = Linear(dim, (num_heads, head_dim), axes=("embed", "heads", None), rngs=rngs)
        self.kv = Linear(dim, (2, num_heads, head_dim), axes=("embed", None, "heads", None), rngs=rngs)
        self.proj = Linear(dim, dim, axes=("heads", "embed"), rngs=rngs)
        self.norm = make_norm(config, dim, rngs=rngs)
        self.mlp = Mlp(dim, config.attn_pool_mlp_dim or config.mlp_dim, act=config.act, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], *, execution: Execution = Execution()) -> Float[Array, "b d"]:
        """Pools the tokens of each image."""
        q = self.q(jnp.broadcast_to(self.latent[...], (x.shape[0], 1, x.shape[-1])))
        kv = self.kv(x)
        k, v = kv[:, :, 0], kv[:, :, 1]
        x = dot_product_attention(q, k, v, scale=self.scale, execution=execution)
        x = self.proj(x.reshape(*x.shape[:2], -1))
        x = x + self.mlp(self.norm(x))
        return x[:, 0]


class PreLogits(nnx.Module):
    """A linear layer and tanh between pooling and head (Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1).

    Args:
        dim: Width of the pooled features.
        out_dim: Width of the result.
        rngs: Source of the initial values.
    """

    def __init__(self, dim: int, out_dim: int, *, rngs: nnx.Rngs):
        self.fc = Linear(dim, out_dim, axes=("embed", None), rngs=rngs)

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """Transforms the pooled features."""
        return jnp.tanh(self.fc(x))
