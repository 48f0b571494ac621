"""Images of another size, on the device. Twin: `vit_jax/resize.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from parity.checkpoints.resize import resize_matrix
from parity.configs.preprocessing import Interpolation


def resize_images(
    images: Float[Tensor, "b c h w"], size: tuple[int, int], interpolation: Interpolation
) -> Float[Tensor, "b c h2 w2"]:
    """Images of another height and width, by the kernel that Pillow uses, which widens where an image shrinks.

    Args:
        images: The normalised images.
        size: Height and width in pixels of the result.
        interpolation: `bilinear`; anything else is bicubic.
    """
    if images.shape[2:] == size:
        return images
    kernel = "bilinear_antialias" if interpolation == "bilinear" else "bicubic_antialias"
    rows, columns = (
        torch.from_numpy(resize_matrix(old, new, kernel)).to(images)
        for old, new in zip(images.shape[2:], size, strict=True)
    )
    return torch.einsum("ih,jw,bchw->bcij", rows, columns, images)
