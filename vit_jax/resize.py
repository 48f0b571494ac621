"""Images of another size, on the device. Twin: `vit_torch/resize.py`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from parity.checkpoints.resize import resize_matrix
from parity.configs.preprocessing import Interpolation


def resize_images(
    images: Float[Array, "b h w c"], size: tuple[int, int], interpolation: Interpolation
) -> Float[Array, "b h2 w2 c"]:
    """Images of another height and width, by the kernel that Pillow uses, which widens where an image shrinks.

    Args:
        images: The normalised images.
        size: Height and width in pixels of the result.
        interpolation: `bilinear`; anything else is bicubic.
    """
    if images.shape[1:3] == size:
        return images
    kernel = "bilinear_antialias" if interpolation == "bilinear" else "bicubic_antialias"
    rows, columns = (
        jnp.asarray(resize_matrix(old, new, kernel), images.dtype)
        for old, new in zip(images.shape[1:3], size, strict=True)
    )
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, images)
