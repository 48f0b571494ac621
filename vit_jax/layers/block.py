"""Transformer blocks. Twin: `vit_torch/layers/block.py`.

Every block is called as `block(x, rotation=, bias=, keep_rate=, key=, execution=)`. The share of samples that drop path
keeps is an argument, so that blocks that differ in nothing else can be scanned.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution, VitConfig

from .. import random
from .act import ACTIVATIONS
from .attention import Attention, AttentionCore
from .drop import drop_path, dropout
from .linear import Linear
from .mlp import make_mlp
from .norm import LayerScale, make_norm
from .rope import Rotation

Tokens = Float[Array, "b n d"]
Bias = Float[Array, "nh n n"]
Rate = float | Float[Array, ""]


def make_scale(config: VitConfig) -> LayerScale | None:
    """The LayerScale of a branch, where a config has one."""
    return None if config.layer_scale_init is None else LayerScale(config.embed_dim, init=config.layer_scale_init)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 2 and 3).

    Args:
        config: Of the model that the block is part of.
        index: Of the block.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, index: int, *, rngs: nnx.Rngs):
        self.norm1 = make_norm(config, config.embed_dim, rngs=rngs)
        self.attn = Attention(config, index, rngs=rngs)
        self.ls1 = make_scale(config)
        self.norm2 = make_norm(config, config.embed_dim, rngs=rngs)
        self.mlp = make_mlp(config, rngs=rngs)
        self.ls2 = None if config.attn_only_layer_scale else make_scale(config)

    def __call__(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        bias: Bias | None = None,
        keep_rate: Rate | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Transforms the tokens."""
        key_attn, key_mlp, key_path1, key_path2 = random.split(key, 4)
        y = self.attn(self.norm1(x), rotation=rotation, bias=bias, key=key_attn, execution=execution)
        y = y if self.ls1 is None else self.ls1(y)
        x = x + drop_path(y, keep_rate, key_path1)
        y = self.mlp(self.norm2(x), key=key_mlp)
        y = y if self.ls2 is None else self.ls2(y)
        return x + drop_path(y, keep_rate, key_path2)


class ResPostBlock(Block):
    """x + norm(attention(x)), then x + norm(mlp(x)): norms after the branches (Liu et al. 2021, arXiv:2111.09883)."""

    def __call__(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        bias: Bias | None = None,
        keep_rate: Rate | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Transforms the tokens."""
        key_attn, key_mlp, key_path1, key_path2 = random.split(key, 4)
        y = self.norm1(self.attn(x, rotation=rotation, bias=bias, key=key_attn, execution=execution))
        x = x + drop_path(y, keep_rate, key_path1)
        y = self.norm2(self.mlp(x, key=key_mlp))
        return x + drop_path(y, keep_rate, key_path2)


class AttentionBranch(nnx.Module):
    """Norm, attention and LayerScale.

    Args:
        config: Of the model that the branch is part of.
        index: Of the block.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, index: int, *, rngs: nnx.Rngs):
        self.norm = make_norm(config, config.embed_dim, rngs=rngs)
        self.attn = Attention(config, index, rngs=rngs)
        self.ls = make_scale(config)

    def __call__(self, x: Tokens, *, key: random.Key | None = None, execution: Execution = Execution()) -> Tokens:
        """What the branch adds to the tokens."""
        x = self.attn(self.norm(x), key=key, execution=execution)
        return x if self.ls is None else self.ls(x)


class MlpBranch(nnx.Module):
    """Norm, MLP and LayerScale.

    Args:
        config: Of the model that the branch is part of.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.norm = make_norm(config, config.embed_dim, rngs=rngs)
        self.mlp = make_mlp(config, rngs=rngs)
        self.ls = make_scale(config)

    def __call__(self, x: Tokens, *, key: random.Key | None = None) -> Tokens:
        """What the branch adds to the tokens."""
        x = self.mlp(self.norm(x), key=key)
        return x if self.ls is None else self.ls(x)


class ParallelThingsBlock(nnx.Module):
    """Two attentions side by side, then two MLPs side by side (Touvron et al. 2022, arXiv:2203.09795, section 3).

    Args:
        config: Of the model that the block is part of.
        index: Of the block.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, index: int, *, rngs: nnx.Rngs):
        self.attns = nnx.List([AttentionBranch(config, index, rngs=rngs) for _ in range(2)])
        self.ffns = nnx.List([MlpBranch(config, rngs=rngs) for _ in range(2)])

    def __call__(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        bias: Bias | None = None,
        keep_rate: Rate | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Transforms the tokens; without rotation and bias, which its configs don't have."""
        keys = random.split(key, 8)
        first, second = (
            drop_path(attn(x, key=keys[i], execution=execution), keep_rate, keys[i + 2])
            for i, attn in enumerate(self.attns)
        )
        x = x + (first + second)
        first, second = (drop_path(ffn(x, key=keys[i + 4]), keep_rate, keys[i + 6]) for i, ffn in enumerate(self.ffns))
        return x + (first + second)


class ParallelScalingBlock(AttentionCore):
    """Attention and MLP side by side, from one projection of one norm (Dehghani et al. 2023, arXiv:2302.05442, eq. 1).

    With differential attention the output is one projection of both, too.

    Args:
        config: Of the model that the block is part of.
        index: Of the block.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, index: int, *, rngs: nnx.Rngs):
        super().__init__(config, index, rngs=rngs)
        dim, hidden, bias = config.embed_dim, config.mlp_dim, config.proj_bias
        self.hidden, self.num_heads = hidden, config.num_heads
        self.act = config.act
        self.drop_rate = config.drop_rate
        self.in_norm = make_norm(config, dim, rngs=rngs)
        # Its parts differ in how a mesh would split them, so it stays whole.
        self.in_proj = Linear(dim, hidden + 3 * dim, bias=config.qkv_bias, axes=("embed", None), rngs=rngs)
        self.mlp_bias = None if config.qkv_bias else nnx.Param(jnp.zeros(hidden, jnp.float32))
        if self.differential:
            self.out_proj = Linear(dim + hidden, dim, bias=bias, axes=(None, "embed"), rngs=rngs)
        else:
            self.attn_out_proj = Linear(dim, dim, bias=bias, axes=("heads", "embed"), rngs=rngs)
            self.mlp_out_proj = Linear(hidden, dim, bias=bias, axes=("mlp", "embed"), rngs=rngs)
        self.ls = make_scale(config)

    def __call__(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        bias: Bias | None = None,
        keep_rate: Rate | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Transforms the tokens; without rotation and bias, which its configs don't have."""
        key_attn, key_mlp, key_path = random.split(key, 3)
        y = self.in_proj(self.in_norm(x))
        hidden, y = y[..., : self.hidden], y[..., self.hidden :]
        hidden = hidden if self.mlp_bias is None else hidden + self.mlp_bias[...]
        hidden = dropout(ACTIVATIONS[self.act](hidden), self.drop_rate, key_mlp)
        qkv = y.reshape(*y.shape[:2], 3, self.num_heads, -1)
        y = self.attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], key=key_attn, execution=execution)
        if self.differential:
            y = self.out_proj(jnp.concatenate([y, hidden], axis=-1))
        else:
            y = self.attn_out_proj(y) + self.mlp_out_proj(hidden)
        y = y if self.ls is None else self.ls(y)
        return x + drop_path(y, keep_rate, key_path)


BLOCKS = {
    "pre_norm": Block,
    "res_post": ResPostBlock,
    "parallel_things": ParallelThingsBlock,
    "parallel_scaling": ParallelScalingBlock,
}
