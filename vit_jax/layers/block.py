"""Transformer blocks. Twin: `vit_torch/layers/block.py`; those with branches side by side are in `parallel.py`.

Source: Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 2 and 3, with LayerScale (Touvron et al. 2021, arXiv:2103.17239)
and stochastic depth (Huang et al. 2016, arXiv:1603.09382).

Every block is called as `block(x, rotation=, mask=, bias=, keep_rate=, key=, execution=)`. The share of samples that
drop path keeps is an argument, so that blocks that differ in nothing else can be scanned. Which attention, MLP and norm
it has is given to it: a class, or one with options such as `partial(Attention, qkv_bias=False)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution

from .. import random
from .attention import Attention, Bias, Mask
from .drop import DropPath
from .mlp import Mlp
from .norm import LayerNorm, LayerScale, Norm
from .rope import Rotation

Tokens = Float[Array, "b n d"]
Rate = float | Float[Array, ""]
# Called as `attn(dim, num_heads, rngs=rngs)` and `mlp(dim, mlp_dim, rngs=rngs)`.
Part = Callable[..., nnx.Module]


def make_scale(dim: int, init: float | None) -> LayerScale | None:
    """The LayerScale of a branch, where there is a start value for one."""
    return None if init is None else LayerScale(dim, init=init)


class Block(nnx.Module):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))): norms before the branches.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width.
        mlp_dim: The hidden width of the MLP.
        norm: The kind of both norms.
        attn: The kind of attention.
        mlp: The kind of MLP.
        layer_scale_init: The start value of LayerScale; None for none.
        attn_only_layer_scale: Whether the attention's branch alone has one.
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
        attn_only_layer_scale: bool = False,
        rngs: nnx.Rngs,
    ):
        self.norm1 = norm(dim, rngs=rngs)
        self.attn = attn(dim, num_heads, rngs=rngs)
        self.ls1 = make_scale(dim, layer_scale_init)
        self.norm2 = norm(dim, rngs=rngs)
        self.mlp = mlp(dim, mlp_dim, rngs=rngs)
        self.ls2 = None if attn_only_layer_scale else make_scale(dim, layer_scale_init)
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
        """Transforms the tokens.

        Args:
            x: Tokens.
            rotation: The same as in `Attention`.
            mask: The same as in `Attention`.
            bias: The same as in `Attention`.
            keep_rate: The share of samples whose branches are kept; None for all.
            key: The key of dropout and drop path; without one, what `Dropout.source` says.
            execution: How to run it.
        """
        key_attn, key_mlp, key_path1, key_path2 = random.split(key, 4)
        given: dict[str, Any] = dict(rotation=rotation, mask=mask, bias=bias, execution=execution)
        y = self.attn(self.norm1(x), **given, key=key_attn)
        y = y if self.ls1 is None else self.ls1(y)
        x = x + self.drop_path(y, keep_rate, key=key_path1)
        y = self.mlp(self.norm2(x), key=key_mlp)
        y = y if self.ls2 is None else self.ls2(y)
        return x + self.drop_path(y, keep_rate, key=key_path2)


class ResPostBlock(Block):
    """x + norm1(attn(x)), then x + norm2(mlp(x)): norms behind the branches (Liu et al. 2021, arXiv:2111.09883).

    Arguments are those of `Block`; a LayerScale isn't applied.
    """

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
        key_attn, key_mlp, key_path1, key_path2 = random.split(key, 4)
        given: dict[str, Any] = dict(rotation=rotation, mask=mask, bias=bias, execution=execution)
        y = self.norm1(self.attn(x, **given, key=key_attn))
        x = x + self.drop_path(y, keep_rate, key=key_path1)
        y = self.norm2(self.mlp(x, key=key_mlp))
        return x + self.drop_path(y, keep_rate, key=key_path2)
