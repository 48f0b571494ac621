"""From images to tokens. Twin: `vit_torch/layers/patch_embed.py`."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from parity.configs import VitConfig
from parity.configs.stem import stem_layers

from .linear import Conv
from .norm import make_norm
from .stem import StemBlock


class PatchEmbed(nnx.Module):
    """Cuts an image into patches and projects each (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1).

    Configs with a convolutional stem have its layers instead of the projection.

    Args:
        config: Of the model that the layer is part of.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.config = config
        layers = stem_layers(config)
        self.proj = None if layers else self._projection(config, rngs=rngs)
        self.stem = nnx.List([StemBlock(layer, eps=config.stem_norm_eps, rngs=rngs) for layer in layers])
        self.norm = make_norm(config, config.embed_dim, rngs=rngs) if config.embed_norm else None

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels of the config.
        """
        self.grid_size(images)
        first = self.stem[0].conv if self.proj is None else self.proj
        x = images.astype(first.kernel[...].dtype)
        for layer in self.stem if self.proj is None else (self.proj,):
            x = layer(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return x if self.norm is None else self.norm(x)

    def grid_size(self, images: Float[Array, "b h w c"]) -> tuple[int, int]:
        """Patches down and across.

        Raises:
            ValueError: The images don't have the size or the channels of the config.
        """
        config = self.config
        patch_height, patch_width = config.patch_size
        height, width, channels = images.shape[1:] if images.ndim == 4 else (0, 0, 0)
        fits = channels == config.in_chans and height >= patch_height and width >= patch_width
        if not config.dynamic_image_size:
            fits = fits and (height, width) == config.image_size
        elif not config.drop_partial_patches:
            fits = fits and height % patch_height == 0 and width % patch_width == 0
        if not fits:
            sides = ("height", "width") if config.dynamic_image_size else config.image_size
            multiples = f", multiples of {config.patch_size}" if config.dynamic_image_size else ""
            expected = f"(batch, *{sides}, {config.in_chans}) (NHWC){multiples}"
            raise ValueError(f"images: got shape {tuple(images.shape)}, expected {expected}")
        return height // patch_height, width // patch_width

    @staticmethod
    def _projection(config: VitConfig, *, rngs: nnx.Rngs) -> Conv:
        return Conv(
            config.in_chans,
            config.embed_dim,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
            axes=(None, None, None, "embed"),
            rngs=rngs,
        )
