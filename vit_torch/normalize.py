"""Images to model inputs on the device. Twin: `vit_jax/normalize.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parity.configs import Preprocessing


def normalize(
    images: UInt8[Tensor, "b h w c"], preprocessing: Preprocessing, dtype: torch.dtype
) -> Float[Tensor, "b c h w"]:
    """(images / 255 - mean) / std, in float32 or better, channels first and in the model's order.

    Args:
        images: The pixels, 0 to 255.
        preprocessing: The fields `mean` and `std`, one value for each channel or one for all, and `channel_order` are
            used.
        dtype: The type of the result; what is narrower than float32 becomes float32.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    mean, std = (
        torch.tensor(values, dtype=dtype, device=images.device) for values in (preprocessing.mean, preprocessing.std)
    )
    images = (images.to(dtype) / 255 - mean) / std
    images = images if preprocessing.channel_order == "rgb" else images.flip(-1)
    return images.permute(0, 3, 1, 2)
