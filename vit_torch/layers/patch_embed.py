"""From images to tokens. Twin: `vit_jax/layers/patch_embed.py`."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import VitConfig
from parity.configs.stem import stem_layers

from .linear import Conv
from .norm import make_norm
from .stem import StemBlock


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1).

    Configs with a convolutional stem have its layers instead of the projection.

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.config = config
        layers = stem_layers(config)
        self.proj = None if layers else self._projection(config)
        self.stem = nn.ModuleList([StemBlock(layer, eps=config.stem_norm_eps) for layer in layers])
        self.norm = make_norm(config, config.embed_dim) if config.embed_norm else None

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels of the config.
        """
        self.grid_size(images)
        first: Any = self.stem[0].conv if self.proj is None else self.proj
        x = images.to(first.weight.dtype)
        for layer in self.stem if self.proj is None else (self.proj,):
            x = layer(x)
        x = x.flatten(2).transpose(1, 2)
        return x if self.norm is None else self.norm(x)

    def grid_size(self, images: Float[Tensor, "b c h w"]) -> tuple[int, int]:
        """Patches down and across.

        Raises:
            ValueError: The images don't have the size or the channels of the config.
        """
        config = self.config
        patch_height, patch_width = config.patch_size
        channels, height, width = images.shape[1:] if images.ndim == 4 else (0, 0, 0)
        fits = channels == config.in_chans and height >= patch_height and width >= patch_width
        if not config.dynamic_image_size:
            fits = fits and (height, width) == config.image_size
        elif not config.drop_partial_patches:
            fits = fits and height % patch_height == 0 and width % patch_width == 0
        if not fits:
            sides = ("height", "width") if config.dynamic_image_size else config.image_size
            multiples = f", multiples of {config.patch_size}" if config.dynamic_image_size else ""
            expected = f"(batch, {config.in_chans}, *{sides}) (NCHW){multiples}"
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected {expected}")
        return height // patch_height, width // patch_width

    @staticmethod
    def _projection(config: VitConfig) -> Conv:
        return Conv(
            config.in_chans,
            config.embed_dim,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )
