"""ResNets with BatchNorm.

Source: He et al. 2015, arXiv:1512.03385, table 1. Names and order of operations are timm's, which are torchvision's.
Twin: `vit_jax/models/resnet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution
from parity.configs.resnet import ResNetConfig

from .. import random
from ..images import check_images
from ..layers.act import relu
from ..layers.batch_norm import BatchNorm
from ..layers.linear import Linear
from ..layers.residual import BasicBlock, Bottleneck, make_conv
from .base import Model, check_indices

Map = Float[Tensor, "b c h w"]


class ResNet(Model):
    """A convolution of 7 x 7 and the greatest of 3 x 3; stages of blocks; the mean of the last map and a linear head.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: ResNetConfig

    def __init__(self, config: ResNetConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        self.conv1 = make_conv(config.in_chans, config.width, 7, 2)
        self.bn1 = BatchNorm(config.width, eps=config.norm_eps)
        for stage in range(config.num_stages):
            setattr(self, f"layer{stage + 1}", make_stage(config, stage))
        dim, classes = config.dims[-1], config.num_classes
        self.fc = Linear(dim, classes) if classes else None

    def forward(self, images: Map, *, key: random.Key | None = None) -> Float[Tensor, "b classes"]:
        """Logits; pooled features (b, d) where the config has no classes.

        Args:
            images: Images of any size that are normalised as the config's preprocessing says.
            key: Nothing is drawn.

        Raises:
            ValueError: The images aren't normalised floats of the config's channels.
        """
        return self.forward_head(self.forward_features(images, key=key))

    def forward_features(self, images: Map, *, key: random.Key | None = None) -> Map:
        """The last map; arguments and errors as of the model."""
        return self._run(images)[-1]

    def forward_intermediates(self, images: Map, *, indices: Sequence[int] | None = None) -> list[Map]:
        """The maps of the stem and of the stages, each of half the size of the one before.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which of them, negative from the end; None for all.

        Raises:
            ValueError: An index beyond the stages.
        """
        check_indices(indices, self.config.num_stages + 1)
        maps = self._run(images)
        return maps if indices is None else [maps[index] for index in indices]

    def forward_head(self, x: Map) -> Float[Tensor, "b classes"]:
        """Logits (or pooled features) of the map that `forward_features` returns."""
        x = x.mean(dim=(2, 3))
        return x if self.fc is None else self.fc(x)

    def _run(self, images: Map) -> list[Map]:
        """The maps of the stem and of the stages."""
        check_images(images, self.config.preprocessing)
        if images.ndim != 4 or images.shape[1] != self.config.in_chans:
            expected = f"(batch, {self.config.in_chans}, height, width) (NCHW)"
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected {expected}")
        x = relu(self.bn1(self.conv1(images)))
        maps = [x]
        x = greatest(x)
        for stage in range(self.config.num_stages):
            for block in getattr(self, f"layer{stage + 1}"):
                x = block(x)
            maps.append(x)
        return maps


def make_stage(config: ResNetConfig, stage: int) -> nn.ModuleList:
    """The blocks of a stage."""
    make = BasicBlock if config.block == "basic" else Bottleneck
    blocks = nn.ModuleList()
    for index in range(config.depths[stage]):
        stride, downsample = config.shrinks(stage, index)
        in_dim = config.dims[stage] if index else config.dims[stage - 1] if stage else config.width
        options: dict[str, Any] = dict(stride=stride, downsample=downsample, eps=config.norm_eps)
        blocks.append(make(in_dim, config.inner_dims[stage], **options))
    return blocks


def greatest(x: Map) -> Map:
    """The greatest of 3 x 3 places, of which every second is kept, down and across."""
    return F.max_pool2d(x, 3, stride=2, padding=1)
