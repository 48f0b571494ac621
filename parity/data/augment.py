"""Random transforms of training images: functions of an image, uint8 (h, w, c), and a `numpy.random.Generator`.

The generator is the only source of randomness, so equal states give equal images.
"""

from __future__ import annotations

import math

import numpy as np

from parity.configs.augmentation import Augmentation
from parity.configs.preprocessing import Interpolation, Preprocessing
from parity.data.extras import require
from parity.data.transforms import check_image, resize, resize_and_crop, through_pillow

_CROP_ATTEMPTS = 10


def augment_image(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    augmentation: Augmentation,
    preprocessing: Preprocessing,
) -> np.ndarray:
    """The training transform: crop, flip, rotate, shift, as far as `augmentation` asks for them.

    Args:
        image: uint8 (h, w, c).
        rng: Source of randomness.
        size: (height, width) in pixels of the result.
        augmentation: What to do at random.
        preprocessing: Gives the interpolation, and the crop where `augmentation` has none.

    Returns:
        uint8 (*size, c).

    Raises:
        ValueError: If the image isn't uint8 (h, w, c).
    """
    check_image(image)
    if augmentation.random_resized_crop is None:
        image = resize_and_crop(image, size, preprocessing)
    else:
        image = random_resized_crop(
            image, rng, size=size, scale=augmentation.random_resized_crop, interpolation=preprocessing.interpolation
        )
    if augmentation.horizontal_flip:
        image = horizontal_flip(image, rng)
    if augmentation.rotate:
        image = random_rotate(image, rng, degrees=augmentation.rotate)
    if augmentation.shift:
        image = random_shift(image, rng, pixels=augmentation.shift)
    return image


def random_resized_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """Cuts a rectangle of random area, shape and place, and resizes it ("Going deeper with convolutions", 2014).

    Args:
        image: uint8 (h, w, c).
        rng: Source of randomness.
        size: (height, width) in pixels of the result.
        scale: Bounds of the rectangle's area, as a share of the image's; uniform.
        ratio: Bounds of its width / height; uniform in the logarithm.
        interpolation: Kernel of the resize.

    Returns:
        uint8 (*size, c).
    """
    h, w = image.shape[:2]
    for _ in range(_CROP_ATTEMPTS):
        area = rng.uniform(*scale) * h * w
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= w and 0 < height <= h:
            top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
            break
    else:  # an image so long that hardly any rectangle fits: the largest one in the middle
        width, height = min(w, max(1, round(h * ratio[1]))), min(h, max(1, round(w / ratio[0])))
        top, left = (h - height) // 2, (w - width) // 2
    return resize(image[top : top + height, left : left + width], size, interpolation)


def horizontal_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left and right, with probability 1/2.

    Args:
        image: uint8 (h, w, c).
        rng: Source of randomness.

    Returns:
        uint8 (h, w, c).
    """
    return image[:, ::-1] if rng.random() < 0.5 else image


def random_rotate(image: np.ndarray, rng: np.random.Generator, *, degrees: float) -> np.ndarray:
    """Rotates about the centre, bilinearly; what comes into view is black.

    Args:
        image: uint8 (h, w, c).
        rng: Source of randomness.
        degrees: The angle is uniform in [-degrees, degrees].

    Returns:
        uint8 (h, w, c).
    """
    angle = rng.uniform(-degrees, degrees)
    kernel = require("PIL.Image").Resampling.BILINEAR
    return through_pillow(image, lambda picture: picture.rotate(angle, kernel))


def random_shift(image: np.ndarray, rng: np.random.Generator, *, pixels: int) -> np.ndarray:
    """Shifts along both axes; what comes into view is black.

    Args:
        image: uint8 (h, w, c).
        rng: Source of randomness.
        pixels: Each shift is a whole number, uniform in [-pixels, pixels].

    Returns:
        uint8 (h, w, c).
    """
    h, w = image.shape[:2]
    top, left = rng.integers(0, 2 * pixels + 1, size=2)
    padded = np.zeros((h + 2 * pixels, w + 2 * pixels, image.shape[2]), np.uint8)
    padded[pixels : pixels + h, pixels : pixels + w] = image
    return padded[top : top + h, left : left + w]
