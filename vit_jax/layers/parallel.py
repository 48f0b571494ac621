"""Blocks with branches side by side, called as those of `block.py`. Twin: `vit_torch/layers/parallel.py`.

Sources: Touvron et al. 2022, arXiv:2203.09795, section 3, for two attentions and two MLPs in parallel; Dehghani et al.
2023, arXiv:2302.05442, eq. 1, for attention and MLP from one projection (ViT-22B). Names and layouts are timm's, whose
`in_proj` yields the MLP's hidden units first, then query, key and value.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution

from .. import random
from .act import ACTIVATIONS
from .attention import Attention, AttentionCore, Bias, Mask, head_dim_of
from .block import Part, Rate, Tokens, make_scale
from .differential import DifferentialCore, lambda_init
from .drop import Dropout, DropPath
from .linear import Linear, add_bias
from .mlp import Mlp
from .norm import LayerNorm, Norm
from .rope import Rotation


class AttentionBranch(nnx.Module):
    """ls(attn(norm(x))).

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        norm: The kind of norm.
        attn: The kind of attention.
        layer_scale_init: The start value of LayerScale; None for none.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        norm: Norm = LayerNorm,
        attn: Part = Attention,
        layer_scale_init: float | None = None,
        rngs: nnx.Rngs,
    ):
        self.norm = norm(dim, rngs=rngs)
        self.attn = attn(dim, num_heads, rngs=rngs)
        self.ls = make_scale(dim, layer_scale_init)

    def __call__(self, x: Tokens, **options: Any) -> Tokens:
        """What the branch adds to the tokens; options as of `Attention`."""
        x = self.attn(self.norm(x), **options)
        return x if self.ls is None else self.ls(x)


class MlpBranch(nnx.Module):
    """ls(mlp(norm(x))).

    Args:
        dim: The width of the tokens.
        mlp_dim: The hidden width of the MLP.
        norm: The kind of norm.
        mlp: The kind of MLP.
        layer_scale_init: The start value of LayerScale; None for none.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        *,
        norm: Norm = LayerNorm,
        mlp: Part = Mlp,
        layer_scale_init: float | None = None,
        rngs: nnx.Rngs,
    ):
        self.norm = norm(dim, rngs=rngs)
        self.mlp = mlp(dim, mlp_dim, rngs=rngs)
        self.ls = make_scale(dim, layer_scale_init)

    def __call__(self, x: Tokens, *, key: random.Key | None = None) -> Tokens:
        """What the branch adds to the tokens."""
        x = self.mlp(self.norm(x), key=key)
        return x if self.ls is None else self.ls(x)


class ParallelThingsBlock(nnx.Module):
    """x + attns.0(x) + attns.1(x), then x + ffns.0(x) + ffns.1(x).

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads of each attention; divides the width.
        mlp_dim: The hidden width of each MLP.
        norm: The kind of all norms.
        attn: The kind of attention.
        mlp: The kind of MLP.
        layer_scale_init: The start value of LayerScale; None for none.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        norm: Norm = LayerNorm,
        attn: Part = Attention,
        mlp: Part = Mlp,
        layer_scale_init: float | None = None,
        rngs: nnx.Rngs,
    ):
        given: dict[str, Any] = dict(norm=norm, layer_scale_init=layer_scale_init)
        self.attns = nnx.List([AttentionBranch(dim, num_heads, attn=attn, **given, rngs=rngs) for _ in range(2)])
        self.ffns = nnx.List([MlpBranch(dim, mlp_dim, mlp=mlp, **given, rngs=rngs) for _ in range(2)])
        self.drop_path = DropPath()

    def __call__(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        keep_rate: Rate | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Transforms the tokens; arguments as of `Block`."""
        keys = random.split(key, 8)
        given: dict[str, Any] = dict(rotation=rotation, mask=mask, bias=bias, execution=execution)
        first, second = (
            self.drop_path(attn(x, **given, key=keys[i]), keep_rate, key=keys[i + 2])
            for i, attn in enumerate(self.attns)
        )
        x = x + (first + second)
        first, second = (
            self.drop_path(ffn(x, key=keys[i + 4]), keep_rate, key=keys[i + 6]) for i, ffn in enumerate(self.ffns)
        )
        return x + (first + second)


class ParallelScalingBlock(AttentionCore):
    """x + ls(attn_out_proj(attention(q, k, v)) + mlp_out_proj(act(hidden))), all of one projection in_proj(in_norm(x)).

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        mlp_dim: The hidden width of the MLP.
        qkv_bias: Whether the projection has a bias; without one, the hidden units alone have theirs.
        proj_bias: Whether the output projections have one.
        qk_norm: The norm over each head of query and key, such as `LayerNorm`; None for none.
        norm: The kind of the norm before the projection.
        act: The name of the activation, one of `ACTIVATIONS`.
        layer_scale_init: The start value of LayerScale; None for none.
        rotate_half: How rotary positions pair channels; see `AttentionCore`.
        attn_drop_rate: Dropout of the attention weights.
        drop_rate: Dropout of the hidden units.
        rngs: The source of the initial values.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        qk_norm: Norm | None = None,
        norm: Norm = LayerNorm,
        act: str = "gelu",
        layer_scale_init: float | None = None,
        rotate_half: bool = False,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        head_dim = head_dim_of(dim, num_heads)
        super().__init__(head_dim, qk_norm=qk_norm, rotate_half=rotate_half, attn_drop_rate=attn_drop_rate, rngs=rngs)
        self.hidden, self.num_heads = mlp_dim, num_heads
        self.act = act
        self.drop = Dropout(drop_rate)
        self.in_norm = norm(dim, rngs=rngs)
        # Its parts differ in how a mesh would split them, so it stays whole.
        self.in_proj = Linear(dim, mlp_dim + 3 * dim, bias=qkv_bias, axes=("embed", None), rngs=rngs)
        self.mlp_bias = None if qkv_bias else nnx.Param(jnp.zeros(mlp_dim, jnp.float32))
        self._add_outputs(dim, mlp_dim, bias=proj_bias, rngs=rngs)
        self.ls = make_scale(dim, layer_scale_init)
        self.drop_path = DropPath()

    def __call__(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        keep_rate: Rate | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Transforms the tokens; arguments as of `Block`."""
        key_attn, key_mlp, key_path = random.split(key, 3)
        y = self.in_proj(self.in_norm(x))
        hidden, y = y[..., : self.hidden], y[..., self.hidden :]
        hidden = add_bias(hidden, self.mlp_bias)
        hidden = self.drop(ACTIVATIONS[self.act](hidden), key=key_mlp)
        qkv = y.reshape(*y.shape[:2], 3, self.num_heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        y = self.attend(q, k, v, rotation=rotation, mask=mask, bias=bias, key=key_attn, execution=execution)
        y = self._project(y, hidden)
        y = y if self.ls is None else self.ls(y)
        return x + self.drop_path(y, keep_rate, key=key_path)

    def _add_outputs(self, dim: int, mlp_dim: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.attn_out_proj = Linear(dim, dim, bias=bias, axes=("heads", "embed"), rngs=rngs)
        self.mlp_out_proj = Linear(mlp_dim, dim, bias=bias, axes=("mlp", "embed"), rngs=rngs)

    def _project(self, x: Tokens, hidden: Float[Array, "b n m"]) -> Tokens:
        return self.attn_out_proj(x) + self.mlp_out_proj(hidden)


class DifferentialParallelScalingBlock(ParallelScalingBlock, DifferentialCore):
    """The same with differential attention, and one projection of both: x + ls(out_proj([attention, act(hidden)])).

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width, and a head's width is even.
        mlp_dim: The hidden width of the MLP.
        index: The number of the block, from 0; the start value of the attention's factor rises with it.
        options: The arguments of `ParallelScalingBlock`.

    Raises:
        ValueError: The heads don't divide the width, or an odd number of channels for each.
    """

    attend = DifferentialCore.attend  # as in `DifferentialAttention`

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, index: int = 0, **options: Any):
        super().__init__(dim, num_heads, mlp_dim, **options)
        self.lambda_init = lambda_init(index)

    def _add_outputs(self, dim: int, mlp_dim: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.out_proj = Linear(dim + mlp_dim, dim, bias=bias, axes=(None, "embed"), rngs=rngs)

    def _project(self, x: Tokens, hidden: Float[Array, "b n m"]) -> Tokens:
        return self.out_proj(jnp.concatenate([x, hidden], axis=-1))
