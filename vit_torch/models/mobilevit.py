"""MobileViTs, of both versions.

Source: Mehta and Rastegari 2021, arXiv:2110.02178, figure 1b; 2022, arXiv:2206.02680, figure 3. Names and order of
operations are timm's. Twin: `vit_jax/models/mobilevit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution
from parity.configs.mobilevit import MobileVitConfig

from .. import random
from ..images import check_images
from ..layers.conv_norm import ConvNormAct
from ..layers.inverted import InvertedResidual
from ..layers.mobilevit import MobileVitBlock, SeparableMobileVitBlock
from .base import Model, check_indices
from .swin import ClassifierHead

Map = Float[Tensor, "b c h w"]


class MobileVit(Model):
    """A convolution; stages of blocks; a convolution, in version 1; the mean of the last map and a linear head.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: MobileVitConfig

    def __init__(self, config: MobileVitConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        given: dict[str, Any] = dict(act=config.act, eps=config.norm_eps)
        self.stem = ConvNormAct(config.in_chans, config.stem_dim, kernel_size=3, stride=2, **given)
        self.stages: Any = nn.ModuleList([make_stage(config, stage) for stage in range(config.num_stages)])
        self.final_conv = ConvNormAct(config.dims[-1], config.out_dim, **given) if config.out_dim else None
        self.head = ClassifierHead(config.width, config.num_classes)

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
        """The maps of the stages, each of half the size of the one before; the last after the last convolution.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which of them, negative from the end; None for all.

        Raises:
            ValueError: An index beyond the stages.
        """
        check_indices(indices, self.config.num_stages)
        maps = self._run(images)
        return maps if indices is None else [maps[index] for index in indices]

    def forward_head(self, x: Map) -> Float[Tensor, "b classes"]:
        """Logits (or pooled features) of the map that `forward_features` returns."""
        return self.head(x.permute(0, 2, 3, 1))

    def _run(self, images: Map, *, key: random.Key | None = None) -> list[Map]:
        """The maps of the stages."""
        check_images(images, self.config.preprocessing)
        if images.ndim != 4 or images.shape[1] != self.config.in_chans:
            expected = f"(batch, {self.config.in_chans}, height, width) (NCHW)"
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected {expected}")
        keys = random.split(key, self.config.num_stages)
        x = self.stem(images)
        maps = []
        for stage, rates, stage_key in zip(self.stages, self.config.drop_path_rates, keys, strict=True):
            for block, rate, own in zip(stage, rates, random.split(stage_key, len(rates)), strict=True):
                keep_rate = 1 - rate if self.config.drop_path_rate else None
                x = block(x, keep_rate=keep_rate, key=own, execution=self.execution)
            maps.append(x)
        return maps if self.final_conv is None else [*maps[:-1], self.final_conv(x)]


def make_stage(config: MobileVitConfig, stage: int) -> nn.ModuleList:
    """The inverted residuals of a stage, and behind them its transformer blocks."""
    dim, given = config.dims[stage], dict[str, Any](act=config.act, eps=config.norm_eps)
    blocks = nn.ModuleList()
    for index in range(config.depths[stage]):
        in_dim, hidden_dim, stride = config.convolution(stage, index)
        blocks.append(InvertedResidual(in_dim, dim, hidden_dim, stride=stride, **given))
    if not config.transformer_depths[stage]:
        return blocks
    given |= dict(depth=config.transformer_depths[stage], patch_size=config.patch_size, fit=config.patch_fit)
    given |= dict(norm_eps=config.transformer_norm_eps)
    given |= dict(drop_rate=config.drop_rate, attn_drop_rate=config.attn_drop_rate)
    inner_dim, mlp_dim = config.transformer_dims[stage], config.mlp_dims[stage]
    if config.version == 2:
        blocks.append(SeparableMobileVitBlock(dim, inner_dim, mlp_dim, **given))
    else:
        blocks.append(MobileVitBlock(dim, inner_dim, config.num_heads, mlp_dim, qkv_bias=config.qkv_bias, **given))
    return blocks
