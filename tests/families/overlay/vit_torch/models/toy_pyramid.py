"""A toy pyramid: a map that convolutions with BatchNorm shrink, then attention over what is left.

After He et al. 2016, arXiv:1512.03385 (blocks of a convolution, BatchNorm and a sum) and Dosovitskiy et al. 2020,
arXiv:2010.11929, eq. 2 and 3 (blocks of attention); no published model. Twin: `vit_jax/models/toy_pyramid.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from parity.configs.toy_pyramid import ToyPyramidConfig
from torch import Tensor, nn

from parity.configs import Execution

from .. import random
from ..images import check_images
from ..layers.batch_norm import BatchNorm
from ..layers.block import Block
from ..layers.linear import Conv, Linear
from ..layers.norm import LayerNorm
from ..layers.stack import run_blocks
from .base import Model

Map = Float[Tensor, "b c h w"]


class ConvNorm(nn.Module):
    """A convolution without a bias, and BatchNorm.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: The factor by which the map shrinks; a kernel of another size is padded to it.
        eps: The epsilon of BatchNorm.
    """

    def __init__(self, in_dim: int, dim: int, *, kernel_size: int, stride: int, eps: float):
        super().__init__()
        kernel, strides, padding = (kernel_size, kernel_size), (stride, stride), (kernel_size - 1) // 2
        self.conv = Conv(in_dim, dim, kernel_size=kernel, stride=strides, padding=padding, bias=False)
        self.norm = BatchNorm(dim, eps=eps)

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        return self.norm(self.conv(x))


class Stage(nn.Module):
    """A map of half the size, x = down(x), then x + relu(norm(conv(x))).

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        eps: The epsilon of BatchNorm.
    """

    def __init__(self, in_dim: int, dim: int, *, eps: float):
        super().__init__()
        self.down = ConvNorm(in_dim, dim, kernel_size=2, stride=2, eps=eps)
        self.conv = Conv(dim, dim, kernel_size=(3, 3), stride=(1, 1), padding=1, bias=False)
        self.norm = BatchNorm(dim, eps=eps)

    def forward(self, x: Map) -> Map:
        """Transforms a map."""
        x = self.down(x)
        return x + torch.relu(self.norm(self.conv(x)))


class ToyPyramid(Model):
    """A stem, stages, blocks of attention on the flattened map, and a head on its mean.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: ToyPyramidConfig

    def __init__(self, config: ToyPyramidConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        dims, eps, norm = config.dims, config.norm_eps, partial(LayerNorm, eps=config.norm_eps)
        self.stem = ConvNorm(config.in_chans, dims[0], kernel_size=3, stride=2, eps=eps)
        self.stages = nn.ModuleList([Stage(dims[i], dims[i + 1], eps=eps) for i in range(config.num_stages)])
        self.blocks = nn.ModuleList(
            [Block(dims[-1], config.num_heads, config.mlp_dim, norm=norm) for _ in range(config.num_blocks)]
        )
        self.norm = norm(dims[-1])
        self.head = Linear(dims[-1], config.num_classes) if config.num_classes else None

    def forward(self, images: Map, *, key: random.Key | None = None) -> Float[Tensor, "b classes"]:
        """Logits; pooled features where the config has no classes.

        Args:
            images: Normalised as the config's preprocessing says, of any multiple of the stride.
            key: The key of stochastic depth; None for PyTorch's own generator in training mode, for none else.
        """
        return self.forward_head(self.forward_features(images, key=key))

    def forward_features(self, images: Map, *, key: random.Key | None = None) -> Map:
        """The last map, normalised. Arguments as of the model."""
        return self.norm(self._run(images, key=key)[-1].movedim(1, -1)).movedim(-1, 1)

    def forward_intermediates(self, images: Map, *, indices: Sequence[int] | None = None) -> list[Map]:
        """The maps of the stem, each stage and each block.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which of them, negative from the end; None for all.
        """
        found = self._run(images)
        return found if indices is None else [found[index] for index in indices]

    def forward_head(self, x: Map) -> Float[Tensor, "b classes"]:
        """Logits (or pooled features) of the map that `forward_features` returns."""
        x = x.mean(dim=(2, 3))
        return x if self.head is None else self.head(x)

    def _run(self, images: Map, *, key: random.Key | None = None) -> list[Map]:
        check_images(images, self.config.preprocessing)
        x = torch.relu(self.stem(images.to(self.stem.conv.weight.dtype)))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens = x.flatten(2).mT
        rates = self.config.drop_path_rates
        options: dict[str, Any] = dict(drop_path_rates=rates, key=key, execution=self.execution, collect=True)
        _, outputs = run_blocks(self.blocks, tokens, **options)
        return [*maps, *(tokens.mT.reshape(x.shape) for tokens in outputs)]
