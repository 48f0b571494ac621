"""Pyramid Vision Transformers, second version.

Source: Wang et al. 2021, arXiv:2106.13797, figure 1: stages of overlapping patches, attention to a smaller map, and
MLPs with a depthwise convolution. Names and order of operations are timm's. Twin: `vit_jax/models/pvt.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution
from parity.configs.pvt import PvtConfig

from .. import random
from ..images import check_images
from ..layers.block import Block
from ..layers.linear import Linear
from ..layers.mlp import ConvMlp
from ..layers.norm import LayerNorm
from ..layers.patch_embed import OverlapPatchEmbed
from ..layers.reduction import ReducedAttention
from ..layers.stack import run_blocks
from .base import Model, check_indices

Map = Float[Tensor, "b c h w"]
# Inside of the stages, channels are last in both twins.
Tokens = Float[Tensor, "b h w c"]


class PvtStage(nn.Module):
    """A map that shrinks, in all stages but the first, then blocks and a norm.

    Args:
        config: The config of the model.
        stage: Which of its stages it is.
    """

    channels_first: ClassVar = False

    def __init__(self, config: PvtConfig, stage: int):
        super().__init__()
        self.downsample = make_embed(config, stage) if stage else None
        self.blocks = nn.ModuleList([make_block(config, stage) for _ in range(config.depths[stage])])
        self.norm = LayerNorm(config.embed_dims[stage], eps=config.norm_eps)
        self.drop_path_rates = config.drop_path_rates[stage]

    def forward(self, x: Tokens, *, key: random.Key | None = None, execution: Execution = Execution()) -> Tokens:
        """Transforms a map.

        Args:
            x: The map of the stage before.
            key: The key of everything that is drawn.
            execution: How to run the blocks.
        """
        x = x if self.downsample is None else self.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x, _ = run_blocks(self.blocks, x, drop_path_rates=self.drop_path_rates, key=key, execution=execution)
        return self.norm(x)


class PyramidVisionTransformer(Model):
    """Overlapping patches; stages of blocks; the mean of the last map and a linear head.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: PvtConfig

    def __init__(self, config: PvtConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        self.patch_embed = make_embed(config, 0)
        self.stages = nn.ModuleList([PvtStage(config, stage) for stage in range(config.num_stages)])
        dim, classes = config.embed_dims[-1], config.num_classes
        self.head = Linear(dim, classes) if classes else None

    def forward(self, images: Map, *, key: random.Key | None = None) -> Float[Tensor, "b classes"]:
        """Logits; pooled features (b, d) where the config has no classes.

        Args:
            images: Images of any size that are normalised as the config's preprocessing says.
            key: The key of dropout and stochastic depth; None for PyTorch's own generator in training mode, for
                neither else.

        Raises:
            ValueError: The images aren't normalised floats of the config's channels.
        """
        return self.forward_head(self.forward_features(images, key=key))

    def forward_features(self, images: Map, *, key: random.Key | None = None) -> Map:
        """The last map; arguments and errors as of the model."""
        return self._run(images, key=key)[-1]

    def forward_intermediates(self, images: Map, *, indices: Sequence[int] | None = None) -> list[Map]:
        """The maps of the stages after their norms, each of half the size of the one before.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which stages, negative from the end; None for all.

        Raises:
            ValueError: An index beyond the stages.
        """
        check_indices(indices, self.config.num_stages)
        maps = self._run(images)
        return maps if indices is None else [maps[index] for index in indices]

    def forward_head(self, x: Map) -> Float[Tensor, "b classes"]:
        """Logits (or pooled features) of the map that `forward_features` returns."""
        x = x.mean(dim=(2, 3))
        return x if self.head is None else self.head(x)

    def _run(self, images: Map, *, key: random.Key | None = None) -> list[Map]:
        """The maps of the stages."""
        check_images(images, self.config.preprocessing)
        keys = random.split(key, self.config.num_stages)
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        maps = []
        for stage, stage_key in zip(self.stages, keys, strict=True):
            x = stage(x, key=stage_key, execution=self.execution)
            maps.append(x.permute(0, 3, 1, 2))
        return maps


def make_embed(config: PvtConfig, stage: int) -> OverlapPatchEmbed:
    """What a stage begins with: of images four times as small, of maps twice."""
    in_dim, size, stride = (config.embed_dims[stage - 1], 3, 2) if stage else (config.in_chans, 7, 4)
    norm = partial(LayerNorm, eps=config.embed_norm_eps)
    return OverlapPatchEmbed(in_dim, config.embed_dims[stage], kernel_size=size, stride=stride, norm=norm)


def make_block(config: PvtConfig, stage: int) -> Block:
    """A block of a stage."""
    attention = dict(ratio=config.sr_ratios[stage], linear=config.linear, qkv_bias=config.qkv_bias)
    drops = dict(attn_drop_rate=config.attn_drop_rate, drop_rate=config.drop_rate)
    norm = partial(LayerNorm, eps=config.embed_norm_eps)
    return Block(
        config.embed_dims[stage],
        config.num_heads[stage],
        config.mlp_dims[stage],
        norm=partial(LayerNorm, eps=config.norm_eps),
        attn=partial(ReducedAttention, norm=norm, **attention, **drops),
        mlp=partial(ConvMlp, act=config.act, relu=config.linear, drop_rate=config.drop_rate),
    )
