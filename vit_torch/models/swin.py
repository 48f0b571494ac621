"""Swin Transformers, first and second version.

Source: Liu et al. 2021, arXiv:2103.14030, figure 3 (stages; blocks of attention in windows, with a table of biases) and
Liu et al. 2022, arXiv:2111.09883, figure 1 (cosine attention, biases of a network, norms behind the branches). Names
and order of operations are timm's, where a stage begins with the merging that Microsoft's code has at the end of the
one before. Twin: `vit_jax/models/swin.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution
from parity.configs.swin import SwinConfig

from .. import random
from ..images import check_images
from ..layers.block import Block, ResPostBlock
from ..layers.linear import Linear
from ..layers.merge import PatchMerging
from ..layers.mlp import Mlp
from ..layers.norm import LayerNorm, Norm
from ..layers.patch_embed import PatchEmbed, patch_grid
from ..layers.stack import run_blocks
from ..layers.window import CosineWindowAttention, WindowAttention
from .base import Model, check_indices

Map = Float[Tensor, "b c h w"]
# Inside of the model, channels are last in both twins.
Tokens = Float[Tensor, "b h w c"]


class SwinStage(nn.Module):
    """A map that shrinks, in all stages but the first, and blocks.

    Args:
        config: The config of the model.
        stage: Which of its stages it is.
    """

    def __init__(self, config: SwinConfig, stage: int):
        super().__init__()
        norm, second, dims = norm_of(config), config.version == 2, config.dims
        self.downsample = PatchMerging(dims[stage - 1], dims[stage], norm=norm, norm_last=second) if stage else None
        self.blocks = nn.ModuleList([make_block(config, stage, i) for i in range(config.depths[stage])])
        self.drop_path_rates = config.drop_path_rates[stage]

    def forward(self, x: Tokens, *, key: random.Key | None = None, execution: Execution = Execution()) -> Tokens:
        """Transforms a map.

        Args:
            x: The map of the stage before.
            key: The key of everything that is drawn.
            execution: How to run the blocks.
        """
        x = x if self.downsample is None else self.downsample(x)
        x, _ = run_blocks(self.blocks, x, drop_path_rates=self.drop_path_rates, key=key, execution=execution)
        return x


class ClassifierHead(nn.Module):
    """The mean of a map, and a linear layer.

    Args:
        dim: The width of the map.
        num_classes: The width of the result; 0 leaves the layer out.
    """

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.fc = Linear(dim, num_classes) if num_classes else None

    def forward(self, x: Tokens) -> Float[Tensor, "b classes"]:
        """Logits, or the mean."""
        x = x.mean(dim=(1, 2))
        return x if self.fc is None else self.fc(x)


class SwinTransformer(Model):
    """Patches; stages of blocks; a norm; the mean of the last map and a linear head.

    Args:
        config: Architecture and numerics.
        execution: How to run it.
    """

    config: SwinConfig

    def __init__(self, config: SwinConfig, *, execution: Execution = Execution()):
        super().__init__()
        self.config = config
        self.execution = execution
        norm = norm_of(config)
        self.patch_embed = PatchEmbed(
            config.in_chans, config.embed_dim, config.patch_size, image_size=config.image_size, norm=norm
        )
        self.layers = nn.ModuleList([SwinStage(config, stage) for stage in range(config.num_stages)])
        self.norm = norm(config.dims[-1])
        self.head = ClassifierHead(config.dims[-1], config.num_classes)

    def forward(self, images: Map, *, key: random.Key | None = None) -> Float[Tensor, "b classes"]:
        """Logits; pooled features (b, d) where the config has no classes.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            key: The key of dropout and stochastic depth; None for PyTorch's own generator in training mode, for
                neither else.

        Raises:
            ValueError: The images aren't normalised floats of the config's size and channels.
        """
        return self.forward_head(self.forward_features(images, key=key))

    def forward_features(self, images: Map, *, key: random.Key | None = None) -> Map:
        """The last map after the final norm; arguments and errors as of the model."""
        return self.norm(self._run(images, key=key)[-1]).permute(0, 3, 1, 2)

    def forward_intermediates(self, images: Map, *, indices: Sequence[int] | None = None) -> list[Map]:
        """The maps of the stages, each of half the size of the one before.

        Args:
            images: Images that are normalised as the config's preprocessing says.
            indices: Which stages, negative from the end; None for all.

        Raises:
            ValueError: An index beyond the stages.
        """
        check_indices(indices, self.config.num_stages)
        maps = self._run(images)
        maps = [x.permute(0, 3, 1, 2) for x in maps]
        return maps if indices is None else [maps[index] for index in indices]

    def forward_head(self, x: Map) -> Float[Tensor, "b classes"]:
        """Logits (or pooled features) of the map that `forward_features` returns."""
        return self.head(x.permute(0, 2, 3, 1))

    def _run(self, images: Map, *, key: random.Key | None = None) -> list[Tokens]:
        """The maps of the stages."""
        check_images(images, self.config.preprocessing)
        keys = random.split(key, self.config.num_stages)
        x = self.patch_embed(images)
        x = x.unflatten(1, patch_grid(self.patch_embed, images))
        maps = []
        for stage, stage_key in zip(self.layers, keys, strict=True):
            x = stage(x, key=stage_key, execution=self.execution)
            maps.append(x)
        return maps


def norm_of(config: SwinConfig) -> Norm:
    """The kind of every norm."""
    return partial(LayerNorm, eps=config.norm_eps)


def make_block(config: SwinConfig, stage: int, index: int) -> Block:
    """A block of a stage, with its windows as they fit into the map."""
    window, shift = config.window(stage, index)
    windows = dict(window_size=window, shift=shift, shift_mask=config.shift_mask)
    drops = dict(attn_drop_rate=config.attn_drop_rate, drop_rate=config.drop_rate)
    if config.version == 2:
        trained = config.trained_windows[stage] if config.trained_windows else 0
        attn = partial(CosineWindowAttention, trained_window=trained)
    else:
        attn = WindowAttention
    # Where norms stand behind the branches, these begin as nothing, as in Microsoft's code.
    make, init = (ResPostBlock, 0.0) if config.version == 2 else (Block, 1.0)
    return make(
        config.dims[stage],
        config.num_heads[stage],
        config.mlp_dim * 2**stage,
        norm=partial(norm_of(config), init=init),
        attn=partial(attn, **windows, pad_first=config.window_fit != "shrink", **drops),
        mlp=partial(Mlp, act=config.act, drop_rate=config.drop_rate),
    )
