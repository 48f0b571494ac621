"""Images to model inputs on the device. Twin: `vit_torch/normalize.py`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from parity.configs import Preprocessing


def normalize(
    images: UInt8[Array, "b h w c"], preprocessing: Preprocessing, dtype: jnp.dtype
) -> Float[Array, "b h w c"]:
    """(images / 255 - mean) / std, in float32 or better, with the channels in the model's order.

    Args:
        images: The pixels, 0 to 255.
        preprocessing: The fields `mean` and `std`, one value for each channel or one for all, and `channel_order` are
            used.
        dtype: The type of the result; what is narrower than float32 becomes float32.
    """
    dtype = jnp.promote_types(dtype, jnp.float32)
    mean, std = (jnp.asarray(values, dtype) for values in (preprocessing.mean, preprocessing.std))
    images = (images.astype(dtype) / 255 - mean) / std
    return images if preprocessing.channel_order == "rgb" else images[..., ::-1]
