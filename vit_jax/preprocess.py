"""Images as people have them, to a model's input. Twin: `vit_torch/preprocess.py`.

The pixels are those of evaluation (`parity.data.eval_batches`), bit for bit the same in both twins, and normalised as
evaluation does it.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from parity.configs import Config
from parity.data.pixels import Images, config_to_run, pixels_of

from .models import Model
from .normalize import normalize


def preprocess(
    images: Images,
    model: Model | Config | str,
    *,
    image_size: int | tuple[int, int] | None = None,
    exif_orientation: bool = False,
) -> Float[Array, "b h w c"]:
    """Images as the input of a model: read, resized, cropped and normalised as its config's `preprocessing` says.

    Args:
        images: A path, a PIL image, an array uint8 (h, w, c) or (h, w); or several, as a list of these or an array
            uint8 (b, h, w, c).
        model: A model, its config, or a registered name.
        image_size: Another input size in pixels, for models with `dynamic_image_size`; that of the config by default.
        exif_orientation: Whether to turn files and PIL images upright as their EXIF orientation says.

    Returns:
        float32 (b, h, w, c), b = 1 for one image.

    Raises:
        ValueError: An image that can't be read or isn't of 0 to 255, an unknown model, or a size that it doesn't take.
        ModuleNotFoundError: Pillow isn't installed, which reads files and resizes.
    """
    config = config_to_run(model, image_size)
    pixels = jnp.asarray(pixels_of(images, config, exif_orientation=exif_orientation))
    return normalize(pixels, config.preprocessing, jnp.float32)
