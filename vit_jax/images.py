"""What a model is called with, checked before its first layer. Twin: `vit_torch/images.py`.

Raw pixels of 0 to 255 give logits that look like any others, so they are an error here. Integers are seen under `jit`,
too; the values of floats only where they are at hand, and no device is waited for.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from parity.configs import Preprocessing

# What plainly isn't normalised. ImageNet's mean and deviation take white to 2.7, the smallest deviations in use to
# about 10, and normal noise stays below that, too. Raw pixels reach 255, and a photograph with none above 40 is all but
# black. A model whose own white is brighter, such as one that takes raw pixels (a deviation of 1/255), may have twice
# that.
_RAW = 40.0
_HOW = "vit_jax.preprocess(images, model) makes them of files, PIL images and pixels of 0 to 255"


def check_images(images: Float[Array, "b h w c"], preprocessing: Preprocessing) -> None:
    """Whether a model can be called with images.

    Args:
        images: The images; their shape is for the layer to check that takes them.
        preprocessing: How the model's config says that images are normalised.

    Raises:
        ValueError: The images aren't an array of floats, or are plainly not normalised.
    """
    if not hasattr(images, "dtype"):
        raise ValueError(f"images: got {type(images).__name__}, expected an array: {_HOW}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images: got {images.dtype}, expected normalised floats: {_HOW}")
    greatest = preprocessing.greatest
    if (found := _greatest(images)) > max(_RAW, 2 * greatest):
        usual = f"normalised ones, at most {greatest:.3g}"
        raise ValueError(f"images: got values up to {found:.4g}, expected {usual}: {_HOW}")


def _greatest(images: Array) -> float:
    """The greatest value, or 0 where the values aren't at hand: of arrays that are traced or on an accelerator."""
    if isinstance(images, Tracer):
        return 0.0
    if isinstance(images, jax.Array) and not all(device.platform == "cpu" for device in images.devices()):
        return 0.0
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return 0.0
    return float(np.max(np.asarray(images), initial=0.0))
