"""From images to tokens. Twin: `vit_jax/layers/patch_embed.py`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import VitConfig

from .linear import Conv


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1).

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.image_shape = (config.in_chans, *config.image_size)
        self.proj = Conv(
            config.in_chans,
            config.embed_dim,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
        )

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels of the config.
        """
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images: got shape {images.shape}, expected (batch, *{self.image_shape}) (NCHW)")
        x = self.proj(images.to(self.proj.weight.dtype))
        return x.flatten(2).transpose(1, 2)
