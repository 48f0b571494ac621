"""From images to tokens. Twin: `vit_torch/layers/patch_embed.py`."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from parity.configs import VitConfig

from .linear import Conv


class PatchEmbed(nnx.Module):
    """Cuts an image into patches and projects each (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1).

    Args:
        config: Of the model that the layer is part of.
        rngs: Source of the initial values.
    """

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.image_shape = (*config.image_size, config.in_chans)
        self.proj = Conv(
            config.in_chans,
            config.embed_dim,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias,
            axes=(None, None, None, "embed"),
            rngs=rngs,
        )

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        """Tokens of the patches, row by row, in the precision of the weights.

        Raises:
            ValueError: The images don't have the size or the channels of the config.
        """
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images: got shape {images.shape}, expected (batch, *{self.image_shape}) (NHWC)")
        x = self.proj(images.astype(self.proj.kernel[...].dtype))
        return x.reshape(x.shape[0], -1, x.shape[-1])
