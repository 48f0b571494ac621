"""From a decoded image to a model's input: resize and crop with Pillow, then normalise with numpy.

Resize and crop follow the evaluation transform of timm (`timm.data.transforms_factory`), and so torchvision's `Resize`
and `CenterCrop`, down to how they round; `crop_rounding` and `fill` are where transformers and open_clip differ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from parity.configs import Config
from parity.configs.preprocessing import CropRounding, Interpolation, Preprocessing
from parity.data.extras import require


def resize_and_crop(image: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """The evaluation transform without normalisation.

    `center` resizes so that the image just covers `floor(size / crop_pct)`, keeping its aspect ratio; `squash` resizes
    to exactly that; `border` so that the image just fits in, and fills up what is missing. All cut `size` from the
    centre.

    Args:
        image: uint8 (h, w, c).
        size: (height, width) in pixels of the result.
        preprocessing: The fields `interpolation`, `crop_pct`, `crop_mode`, `crop_rounding` and `fill` are used.

    Returns:
        uint8 (*size, c).

    Raises:
        ValueError: If the image isn't uint8 (h, w, c).
    """
    check_image(image)
    target_h, target_w = preprocessing.resized(size)
    (h, w), mode = image.shape[:2], preprocessing.crop_mode
    if mode == "squash":
        scaled = (target_h, target_w)
    elif mode == "center" and target_h == target_w:  # torchvision's Resize of the short side: the long one goes down
        short, long = sorted((h, w))
        scaled_long = int(target_h * long / short)
        scaled = (target_h, scaled_long) if h <= w else (scaled_long, target_w)
    else:  # timm's ResizeKeepRatio: rounded to the nearest
        ratio = (max if mode == "border" else min)(h / target_h, w / target_w)
        scaled = (round(h / ratio), round(w / ratio))
    resized = resize(image, scaled, preprocessing.interpolation)
    if mode == "border":
        resized = _pad(resized, size, preprocessing)
    return _center_crop(resized, size, preprocessing.crop_rounding)


def preprocess(image: np.ndarray, config: Config, dtype: Any = np.float32) -> np.ndarray:
    """A decoded image as the input of a model: resized, cropped and normalised as its config says.

    Args:
        image: uint8 (h, w, c).
        config: The config of the model; its `image_size` and `preprocessing` are used.
        dtype: The type of the result; what is narrower than float32 is computed in float32.

    Returns:
        (*image_size, c) in `dtype`.

    Raises:
        ValueError: If the image isn't uint8 (h, w, c), or has other channels than the config's `mean`.
    """
    return normalize(resize_and_crop(image, config.image_size, config.preprocessing), config.preprocessing, dtype)


def resize(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Resizes with Pillow, antialiased.

    Args:
        image: uint8 (h, w, c).
        size: (height, width) in pixels of the result.
        interpolation: The kernel.

    Returns:
        uint8 (*size, c); the image itself if it has that size.
    """
    if image.shape[:2] == tuple(size):
        return image
    kernel = require("PIL.Image").Resampling[interpolation.upper()]
    height, width = size
    return through_pillow(image, lambda picture: picture.resize((width, height), kernel))


def normalize(images: np.ndarray, preprocessing: Preprocessing, dtype: Any = np.float32) -> np.ndarray:
    """(images / 255 - mean) / std, with the channels in the model's order.

    Args:
        images: uint8 (..., c).
        preprocessing: The fields `mean` and `std`, one value for each channel or one for all, and `channel_order` are
            used.
        dtype: The type of the result; what is narrower than float32 is computed in float32.

    Returns:
        The images in `dtype`, in the shape they came.

    Raises:
        ValueError: If the images aren't uint8 or have another number of channels than `mean`.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images: got {images.dtype}, expected uint8")
    if len(preprocessing.mean) not in (1, images.shape[-1]):
        raise ValueError(f"images: got {images.shape[-1]} channels, expected {len(preprocessing.mean)}, as mean has")
    compute = np.result_type(dtype, np.float32)
    mean, std = (np.asarray(values, compute) for values in (preprocessing.mean, preprocessing.std))
    normal = ((images.astype(compute) / compute.type(255) - mean) / std).astype(dtype, copy=False)
    return normal if preprocessing.channel_order == "rgb" else np.ascontiguousarray(normal[..., ::-1])


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


def _pad(image: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Fills an image up to `size` where it is smaller; an odd rest goes right and below."""
    fill = preprocessing.fill
    colour = [round(255 * value) for value in preprocessing.mean] if fill is None else fill
    (h, w), (height, width) = image.shape[:2], (max(pair) for pair in zip(image.shape[:2], size, strict=True))
    padded = np.empty((height, width, image.shape[2]), np.uint8)
    padded[:] = colour
    top, left = (height - h) // 2, (width - w) // 2
    padded[top : top + h, left : left + w] = image
    return padded


def _center_crop(image: np.ndarray, size: tuple[int, int], rounding: CropRounding) -> np.ndarray:
    (h, w), (height, width) = image.shape[:2], size
    start = math.floor if rounding == "down" else round
    top, left = start((h - height) / 2), start((w - width) / 2)
    return image[top : top + height, left : left + width]
