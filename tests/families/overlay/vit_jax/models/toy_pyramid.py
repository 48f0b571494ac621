"""A toy pyramid: a map that convolutions with BatchNorm shrink, then attention over what is left.

After He et al. 2016, arXiv:1512.03385 (blocks of a convolution, BatchNorm and a sum) and Dosovitskiy et al. 2020,
arXiv:2010.11929, eq. 2 and 3 (blocks of attention); no published model. Twin: `vit_torch/models/toy_pyramid.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float
from parity.configs.toy_pyramid import ToyPyramidConfig

from parity.configs import Execution

from .. import random
from ..images import check_images
from ..layers.batch_norm import BatchNorm
from ..layers.block import Block
from ..layers.linear import Conv, Linear
from ..layers.norm import LayerNorm
from ..layers.stack import run_blocks
from .base import Model

Map = Float[Array, "b h w c"]


class ConvNorm(nnx.Module):
    """A convolution without a bias, and BatchNorm.

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: The factor by which the map shrinks; a kernel of another size is padded to it.
        eps: The epsilon of BatchNorm.
        rngs: The source of the initial values.
    """

    def __init__(self, in_dim: int, dim: int, *, kernel_size: int, stride: int, eps: float, rngs: nnx.Rngs):
        kernel, strides, padding = (kernel_size, kernel_size), (stride, stride), (kernel_size - 1) // 2
        axes = (None, None, None, "embed")
        self.conv = Conv(
            in_dim, dim, kernel_size=kernel, stride=strides, padding=padding, bias=False, axes=axes, rngs=rngs
        )
        self.norm = BatchNorm(dim, eps=eps, rngs=rngs)

    def __call__(self, x: Map) -> Map:
        """Transforms a map."""
        return self.norm(self.conv(x))


class Stage(nnx.Module):
    """A map of half the size, x = down(x), then x + relu(norm(conv(x))).

    Args:
        in_dim: Channels of the input.
        dim: Channels of the output.
        eps: The epsilon of BatchNorm.
        rngs: The source of the initial values.
    """

    def __init__(self, in_dim: int, dim: int, *, eps: float, rngs: nnx.Rngs):
        self.down = ConvNorm(in_dim, dim, kernel_size=2, stride=2, eps=eps, rngs=rngs)
        axes = (None, None, None, "embed")
        self.conv = Conv(dim, dim, kernel_size=(3, 3), stride=(1, 1), padding=1, bias=False, axes=axes, rngs=rngs)
        self.norm = BatchNorm(dim, eps=eps, rngs=rngs)

    def __call__(self, x: Map) -> Map:
        """Transforms a map."""
        x = self.down(x)
        return x + jax.nn.relu(self.norm(self.conv(x)))


class ToyPyramid(Model):
    """A stem, stages, blocks of attention on the flattened map, and a head on its mean.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
        rngs: The source of the initial values, and of the stream that training mode draws from without a key.
    """

    config: ToyPyramidConfig

    def __init__(self, config: ToyPyramidConfig, *, execution: Execution = Execution(), rngs: nnx.Rngs):
        self.config = config
        self.execution = execution
        dims, eps, norm = config.dims, config.norm_eps, partial(LayerNorm, eps=config.norm_eps)
        self.stem = ConvNorm(config.in_chans, dims[0], kernel_size=3, stride=2, eps=eps, rngs=rngs)
        self.stages = nnx.List([Stage(dims[i], dims[i + 1], eps=eps, rngs=rngs) for i in range(config.num_stages)])
        self.blocks = nnx.List(
            [Block(dims[-1], config.num_heads, config.mlp_dim, norm=norm, rngs=rngs) for _ in range(config.num_blocks)]
        )
        self.norm = norm(dims[-1], rngs=rngs)
        axes = ("embed", "classes")
        self.head = Linear(dims[-1], config.num_classes, axes=axes, rngs=rngs) if config.num_classes else None
        super().__init__(config.drop_path_rate > 0, rngs=rngs)

    def __call__(self, images: Map, *, key: random.Key | None = None) -> Float[Array, "b classes"]:
        """Logits; pooled features where the config has no classes.

        Args:
            images: Normalised as the config's preprocessing says, of any multiple of the stride.
            key: The key of stochastic depth; None for the model's own stream in training mode, for none else.
        """
        return self.forward_head(self.forward_features(images, key=key))

    def forward_features(self, images: Map, *, key: random.Key | None = None) -> Map:
        """The last map, normalised. Arguments as of the model."""
        return self.norm(self._run(images, key=key)[-1])

    def forward_intermediates(self, images: Map, *, indices: Sequence[int] | None = None) -> list[Map]:
        """The maps of the stem, each stage and each block.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which of them, negative from the end; None for all.
        """
        found = self._run(images)
        return found if indices is None else [found[index] for index in indices]

    def forward_head(self, x: Map) -> Float[Array, "b classes"]:
        """Logits (or pooled features) of the map that `forward_features` returns."""
        x = x.mean(axis=(1, 2))
        return x if self.head is None else self.head(x)

    def _run(self, images: Map, *, key: random.Key | None = None) -> list[Map]:
        check_images(images, self.config.preprocessing)
        x = jax.nn.relu(self.stem(images.astype(self.stem.conv.kernel[...].dtype)))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        rates = self.config.drop_path_rates
        options: dict[str, Any] = dict(
            drop_path_rates=rates, key=self.source(key), execution=self.execution, collect=True
        )
        _, outputs = run_blocks(self.blocks, tokens, **options)
        return [*maps, *(tokens.reshape(x.shape) for tokens in outputs)]
