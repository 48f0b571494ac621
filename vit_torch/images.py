"""What a model is called with, checked before its first layer. Twin: `vit_jax/images.py`.

Raw pixels of 0 to 255 give logits that look like any others, so they are an error here. Integers are seen by the
compiler, too; the values of floats only where they are at hand, and no device is waited for.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from parity.configs import Preprocessing

# What plainly isn't normalised. ImageNet's mean and deviation take white to 2.7, the smallest deviations in use to
# about 10, and normal noise stays below that, too. Raw pixels reach 255, and a photograph with none above 40 is all but
# black. A model whose own white is brighter, such as one that takes raw pixels (a deviation of 1/255), may have twice
# that.
_RAW = 40.0
_HOW = "vit_torch.preprocess(images, model) makes them of files, PIL images and pixels of 0 to 255"


def check_images(images: Float[Tensor, "b c h w"], preprocessing: Preprocessing) -> None:
    """Whether a model can be called with images.

    Args:
        images: The images; their shape is for the layer to check that takes them.
        preprocessing: How the model's config says that images are normalised.

    Raises:
        ValueError: The images aren't a tensor of floats, or are plainly not normalised.
    """
    if not isinstance(images, Tensor):
        raise ValueError(f"images: got {type(images).__name__}, expected a tensor: {_HOW}")
    if not images.is_floating_point():
        raise ValueError(f"images: got {images.dtype}, expected normalised floats: {_HOW}")
    greatest = preprocessing.greatest
    if (found := _greatest(images)) > max(_RAW, 2 * greatest):
        usual = f"normalised ones, at most {greatest:.3g}"
        raise ValueError(f"images: got values up to {found:.4g}, expected {usual}: {_HOW}")


def _greatest(images: Tensor) -> float:
    """The greatest value, or 0 where the values aren't at hand: of tensors that are traced or on an accelerator."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return 0.0
    # Subclasses may have no values, as the fake tensors of a tracer.
    if type(images) is not Tensor or images.device.type != "cpu" or not images.numel():
        return 0.0
    try:
        return float(images.detach().amax())
    except RuntimeError:  # inside of torch.vmap nobody may look
        return 0.0
