"""Transformer blocks between convolutions. Twin: `vit_torch/layers/mobilevit.py`.

Source: Mehta and Rastegari 2021, arXiv:2110.02178, figure 1b; 2022, arXiv:2206.02680, figure 3. A convolution sees what
is near, then each place of a patch sees its like in all other patches. Names and order of operations are timm's. Where
other projects differ: see `unfold.py` for maps that patches don't divide.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution

from .. import random
from .attention import Attention
from .block import Block
from .conv_norm import ConvNormAct
from .linear import Conv
from .mlp import Mlp
from .norm import GroupNorm, LayerNorm
from .separable import PointwiseMlp, SeparableAttention
from .stack import run_blocks
from .unfold import fitted, fold, unfold, whole_size

Map = Float[Array, "b h w c"]


class MobileVitBlock(nnx.Module):
    """conv_fusion of x beside conv_proj(norm(blocks(conv_1x1(conv_kxk(x))))), the first version.

    A map that patches don't divide becomes larger before the transformer blocks, and as small again behind them.

    Args:
        dim: Channels of the map.
        inner_dim: The width of the transformer blocks.
        num_heads: The heads of their attention; they divide the width.
        mlp_dim: The hidden width of their MLPs.
        depth: The number of transformer blocks.
        patch_size: Height and width of a patch.
        fit: How a map becomes one that patches divide, as `fitted` says.
        act: The name of the activation, one of `ACTIVATIONS`.
        eps: The epsilon of BatchNorm.
        norm_eps: The epsilon of the norms in and behind the transformer blocks.
        drop_rate: Dropout behind projections.
        attn_drop_rate: Dropout of attention weights.
        qkv_bias: Whether the projections to query, key and value have a bias.
        rngs: The source of the initial values.

    Raises:
        ValueError: The heads don't divide the width.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        depth: int = 2,
        patch_size: tuple[int, int] = (2, 2),
        fit: str = "bilinear",
        act: str = "silu",
        eps: float = 1e-5,
        norm_eps: float = 1e-5,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        qkv_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.patch_size = patch_size
        self.fit = fit
        given: dict[str, Any] = dict(act=act, eps=eps, rngs=rngs)
        norm = partial(LayerNorm, eps=norm_eps)
        drops: dict[str, Any] = dict(attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        parts: dict[str, Any] = dict(
            attn=partial(Attention, qkv_bias=qkv_bias, **drops), mlp=partial(Mlp, act=act, drop_rate=drop_rate)
        )
        self.conv_kxk = ConvNormAct(dim, dim, kernel_size=3, **given)
        self.conv_1x1 = make_inward(dim, inner_dim, rngs=rngs)
        self.transformer = nnx.List(
            [Block(inner_dim, num_heads, mlp_dim, norm=norm, **parts, rngs=rngs) for _ in range(depth)]
        )
        self.norm = norm(inner_dim, rngs=rngs)
        self.conv_proj = ConvNormAct(inner_dim, dim, **given)
        self.conv_fusion = ConvNormAct(2 * dim, dim, kernel_size=3, **given)

    def __call__(
        self,
        x: Map,
        *,
        keep_rate: float | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Map:
        """Transforms a map.

        Args:
            x: A map.
            keep_rate: The share of samples whose branches are kept, in all transformer blocks; None for all.
            key: The key of dropout and drop path; without one, what `Dropout.source` says.
            execution: How to run the transformer blocks.

        Raises:
            ValueError: The map has no whole patch, and isn't to become larger.
        """
        y = self.conv_1x1(self.conv_kxk(x))
        own = (y.shape[1], y.shape[2])
        size = whole_size(own, self.patch_size, self.fit)
        y = unfold(fitted(y, size, self.fit), self.patch_size)
        # Each place of a patch is a sample of its own.
        tokens = y.reshape(-1, *y.shape[2:])
        rates = [0.0 if keep_rate is None else 1 - keep_rate] * len(self.transformer)
        tokens, _ = run_blocks(self.transformer, tokens, drop_path_rates=rates, key=key, execution=execution)
        y = self.norm(tokens).reshape(y.shape)
        y = fitted(fold(y, size, self.patch_size), own, self.fit)
        return self.conv_fusion(jnp.concatenate([x, self.conv_proj(y)], axis=-1))


class SeparableMobileVitBlock(nnx.Module):
    """conv_proj(norm(blocks(conv_1x1(conv_kxk(x))))) with attention of linear cost, the second version.

    A map that patches don't divide becomes larger before all of it and stays so, or with `zeros` has zeros where no
    whole patch was.

    Args:
        dim: Channels of the map.
        inner_dim: The width of the transformer blocks.
        mlp_dim: The hidden width of their MLPs.
        depth: The number of transformer blocks.
        patch_size: Height and width of a patch.
        fit: How a map becomes one that patches divide, as `fitted` says.
        act: The name of the activation, one of `ACTIVATIONS`.
        eps: The epsilon of BatchNorm.
        norm_eps: The epsilon of the norms in and behind the transformer blocks.
        drop_rate: Dropout behind projections.
        attn_drop_rate: Dropout of attention weights.
        rngs: The source of the initial values.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        mlp_dim: int,
        *,
        depth: int = 2,
        patch_size: tuple[int, int] = (2, 2),
        fit: str = "align_corners",
        act: str = "silu",
        eps: float = 1e-5,
        norm_eps: float = 1e-5,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.patch_size = patch_size
        self.fit = fit
        given: dict[str, Any] = dict(eps=eps, rngs=rngs)
        norm = partial(GroupNorm, groups=1, eps=norm_eps)
        drops: dict[str, Any] = dict(attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        parts: dict[str, Any] = dict(
            attn=partial(SeparableAttention, **drops), mlp=partial(PointwiseMlp, act=act, drop_rate=drop_rate)
        )
        self.conv_kxk = ConvNormAct(dim, dim, kernel_size=3, groups=dim, act=act, **given)
        self.conv_1x1 = make_inward(dim, inner_dim, rngs=rngs)
        self.transformer = nnx.List([Block(inner_dim, 1, mlp_dim, norm=norm, **parts, rngs=rngs) for _ in range(depth)])
        self.norm = norm(inner_dim, rngs=rngs)
        self.conv_proj = ConvNormAct(inner_dim, dim, **given)

    def __call__(
        self,
        x: Map,
        *,
        keep_rate: float | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Map:
        """Transforms a map.

        Args:
            x: A map.
            keep_rate: The share of samples whose branches are kept, in all transformer blocks; None for all.
            key: The key of dropout and drop path; without one, what `Dropout.source` says.
            execution: How to run the transformer blocks.

        Raises:
            ValueError: The map has no whole patch, and isn't to become larger.
        """
        own = (x.shape[1], x.shape[2])
        size = whole_size(own, self.patch_size, self.fit)
        if self.fit != "zeros":
            own = size
            x = fitted(x, size, self.fit)
        x = self.conv_1x1(self.conv_kxk(x))
        x = unfold(fitted(x, size, self.fit), self.patch_size)
        rates = [0.0 if keep_rate is None else 1 - keep_rate] * len(self.transformer)
        x, _ = run_blocks(self.transformer, x, drop_path_rates=rates, key=key, execution=execution)
        x = fold(self.norm(x), size, self.patch_size)
        return self.conv_proj(fitted(x, own, self.fit))


def make_inward(in_dim: int, dim: int, *, rngs: nnx.Rngs) -> Conv:
    """A convolution of 1 x 1 without a bias, to the width of the transformer blocks."""
    size: dict[str, Any] = dict(kernel_size=(1, 1), stride=(1, 1))
    return Conv(in_dim, dim, **size, bias=False, axes=(None, None, None, "embed"), rngs=rngs)
