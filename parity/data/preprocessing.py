"""From a decoded image to a model's input: resize and crop with Pillow, then normalise with numpy.

Resize and crop follow the evaluation transform of timm (`timm.data.transforms_factory`), and so torchvision's `Resize`
and `CenterCrop`, down to how they round.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from parity.configs.preprocessing import Interpolation, Preprocessing
from parity.data.extras import require


def resize_and_crop(image: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """The evaluation transform.

    `center` resizes so that the image just covers `floor(size / crop_pct)`, keeping its aspect ratio; `squash` resizes
    to exactly that. Both then cut `size` from the centre.

    Args:
        image: uint8 (h, w, c).
        size: (height, width) in pixels of the result.
        preprocessing: Gives `interpolation`, `crop_pct` and `crop_mode`.

    Returns:
        uint8 (*size, c).

    Raises:
        ValueError: If the image isn't uint8 (h, w, c).
    """
    check_image(image)
    target_h, target_w = (math.floor(side / preprocessing.crop_pct) for side in size)
    if preprocessing.crop_mode == "squash":
        scaled = (target_h, target_w)
    else:
        scaled = _covering_size(image.shape[0], image.shape[1], target_h, target_w)
    return _center_crop(resize(image, scaled, preprocessing.interpolation), size)


def resize(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Resizes with Pillow, antialiased.

    Args:
        image: uint8 (h, w, c).
        size: (height, width) in pixels of the result.
        interpolation: Kernel.

    Returns:
        uint8 (*size, c); the image itself if it has that size.
    """
    if image.shape[:2] == tuple(size):
        return image
    kernel = require("PIL.Image").Resampling[interpolation.upper()]
    height, width = size
    return through_pillow(image, lambda picture: picture.resize((width, height), kernel))


def normalize(images: np.ndarray, preprocessing: Preprocessing, dtype: Any = np.float32) -> np.ndarray:
    """(images / 255 - mean) / std.

    Args:
        images: uint8 (..., c).
        preprocessing: Gives `mean` and `std`, one value for each channel.
        dtype: Type of the result; what is narrower than float32 is computed in float32.

    Returns:
        The images in `dtype`, in the shape they came.

    Raises:
        ValueError: If the images aren't uint8 or have another number of channels than `mean`.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images: got {images.dtype}, expected uint8")
    if images.shape[-1] != len(preprocessing.mean):
        raise ValueError(f"images: got {images.shape[-1]} channels, expected {len(preprocessing.mean)}, as mean has")
    compute = np.result_type(dtype, np.float32)
    mean, std = (np.asarray(values, compute) for values in (preprocessing.mean, preprocessing.std))
    return ((images.astype(compute) / compute.type(255) - mean) / std).astype(dtype, copy=False)


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is uint8 (h, w, c)."""
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: got {image.dtype} {image.shape}, expected uint8 (h, w, c)")


def through_pillow(image: np.ndarray, transform: Any) -> np.ndarray:
    """Applies a function of a PIL image to uint8 (h, w, c) and returns the same kind of array."""
    pil = require("PIL.Image")
    if image.shape[-1] == 3:
        return np.asarray(transform(pil.fromarray(image)))
    # Channel by channel: Pillow would take two or four channels for a colour with alpha, and weight by it.
    planes = (np.asarray(transform(pil.fromarray(image[..., i]))) for i in range(image.shape[-1]))
    return np.stack(list(planes), axis=-1)


def _covering_size(h: int, w: int, target_h: int, target_w: int) -> tuple[int, int]:
    if target_h == target_w:  # torchvision's Resize of the short side: the long one is rounded down
        short, long = sorted((h, w))
        scaled_long = int(target_h * long / short)
        return (target_h, scaled_long) if h <= w else (scaled_long, target_w)
    ratio = min(h / target_h, w / target_w)  # timm's ResizeKeepRatio: rounded to the nearest
    return round(h / ratio), round(w / ratio)


def _center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (h, w), (height, width) = image.shape[:2], size
    top, left = round((h - height) / 2), round((w - width) / 2)
    return image[top : top + height, left : left + width]
