"""Images as people have them, as the pixels that a model's evaluation would see: paths, PIL images, arrays, lists.

The twins' `preprocess` normalises these on their devices, as they do with batches of `eval_batches`: the pixels are the
same uint8 in both, and the same as a data set's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from parity.configs import Config, get, replace
from parity.data.decode import decode, decoded, with_channels
from parity.data.transforms import resize_and_crop

# A path, a `PIL.Image.Image`, an array uint8 (h, w, c) or (h, w); a list of these, or an array uint8 (b, h, w, c).
Images: TypeAlias = Any

# Channels that an array may have, and how many of them aren't transparency.
_WITHOUT_ALPHA = {1: 1, 2: 1, 3: 3, 4: 3}
_ONE = "a path, a PIL image or an array uint8 (h, w, c)"


def config_to_run(model: Any, image_size: int | tuple[int, int] | None = None) -> Config:
    """The config whose preprocessing images are to have.

    Args:
        model: A model, a config, or a registered name.
        image_size: Another input size, for models of a dynamic one.

    Raises:
        ValueError: Unknown name, no model, or a size that the model doesn't take.
    """
    config = get(model) if isinstance(model, str) else getattr(model, "config", model)
    for field in ("image_size", "in_chans", "preprocessing"):
        if not hasattr(config, field):
            raise ValueError(f"model: got {type(model).__name__}, expected a model, its config, or a registered name")
    if image_size is None:
        return config
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if size != config.image_size and not getattr(config, "dynamic_image_size", False):
        how = "load(..., image_size=...) and create_model(..., image_size=...) make one that takes others"
        raise ValueError(f"image_size: got {size}, but the model takes {config.image_size}; {how}")
    return replace(config, image_size=size)


def pixels_of(images: Images, config: Config, *, exif_orientation: bool = False) -> np.ndarray:
    """Reads, resizes and crops images as evaluation does (`resize_and_crop`).

    Grey is repeated for a model of colours; for one of grey, colours become Pillow's `L`. Transparency is dropped, and
    of 16 bits in a file or a PIL image the upper 8 are taken, as `decode` says.

    Args:
        images: One image, or several in a list or an array (b, h, w, c): paths, PIL images and arrays, also mixed.
        config: The config of the model; its `image_size`, `in_chans` and `preprocessing` are used.
        exif_orientation: Whether to turn files and PIL images upright as their EXIF orientation says, as cameras write
            it. Training pipelines, torchvision's, timm's and ours among them, don't by default.

    Returns:
        uint8 (b, h, w, c), b = 1 for one image.

    Raises:
        ValueError: What can't be read or isn't an image of 0 to 255; names it and says what is expected.
        ModuleNotFoundError: Pillow isn't installed, which reads files and resizes.
    """
    rows = []
    for image, name in _each(images, config.in_chans):
        pixels = _one(image, name, config.in_chans, exif_orientation=exif_orientation)
        rows.append(resize_and_crop(pixels, config.image_size, config.preprocessing))
    if not rows:
        raise ValueError(f"images: got none, expected {_ONE}, or a list of them")
    return np.stack(rows)


def _each(images: Images, in_chans: int) -> Iterator[tuple[Any, str]]:
    """Every image with its name for errors."""
    if isinstance(images, list | tuple):
        for i, image in enumerate(images):
            yield image, f"images[{i}]"
    elif getattr(images, "ndim", 0) == 4:
        for i, image in enumerate(_checked(_array(images, "images"), "images", in_chans, axes="(b, h, w, c)")):
            yield image, f"images[{i}]"
    else:
        yield images, "images"


def _one(image: Any, name: str, in_chans: int, *, exif_orientation: bool) -> np.ndarray:
    """One image as uint8 (h, w, in_chans)."""
    if isinstance(image, str | os.PathLike) or _is_pillow(image):
        if in_chans not in (1, 3):
            expected = f"an array of the model's {in_chans} channels"
            raise ValueError(f"{name}: got {type(image).__name__}, expected {expected}")
        if not _is_pillow(image):
            return decode(Path(image).expanduser(), in_chans, exif_orientation=exif_orientation)
        try:
            return decoded(image, in_chans, exif_orientation=exif_orientation)
        except Exception as error:  # as of `decode`: a file behind the image is read now
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    pixels = _array(image, name)
    pixels = _checked(pixels[..., None] if pixels.ndim == 2 else pixels, name, in_chans, axes="(h, w, c)")
    channels = pixels.shape[-1]
    if channels == in_chans:
        return pixels
    if in_chans not in (1, 3):
        raise ValueError(f"{name}: got {channels} channels, expected {in_chans}, as the model has")
    return with_channels(pixels[..., : _WITHOUT_ALPHA[channels]], in_chans)


def _is_pillow(image: Any) -> bool:
    # An image of Pillow's can't be here unless Pillow is loaded.
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def _array(image: Any, name: str) -> np.ndarray:
    if not hasattr(image, "__array__"):
        raise ValueError(f"{name}: got {type(image).__name__}, expected {_ONE}, or a list of these")
    try:
        return np.asarray(image)
    except Exception as error:  # a tensor on a GPU, an array while it is traced
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name}: got {type(image).__name__}, expected an array on the host: {reason}") from error


def _checked(pixels: np.ndarray, name: str, in_chans: int, *, axes: str) -> np.ndarray:
    """The array, if it has these axes and the values of an image.

    Raises:
        ValueError: It hasn't; says how to make it one that has, as far as it shows what it is.
    """
    shape, channels = pixels.shape, {*_WITHOUT_ALPHA, in_chans}
    if len(shape) != axes.count(",") + 1 or 0 in shape or shape[-1] not in channels:
        first = len(shape) - 3
        how = ""
        if first in (0, 1) and shape[first] in channels and shape[-1] not in channels:
            how = f"; channels come last: np.transpose(images, {(0, 2, 3, 1) if first else (1, 2, 0)})"
        elif first == 0 and shape[-1] not in channels:
            how = "; a batch of grey images is (b, h, w, 1): images[..., None]"
        raise ValueError(f"{name}: got shape {shape}, expected {axes}{how}")
    if pixels.dtype != np.uint8:
        raise ValueError(f"{name}: got {_described(pixels)}, expected uint8, 0 to 255{_to_uint8(pixels)}")
    return pixels


def _described(pixels: np.ndarray) -> str:
    if pixels.dtype.kind not in "iuf":
        return str(pixels.dtype)
    low, high = (f"{value:.4g}" if pixels.dtype.kind == "f" else str(value) for value in (pixels.min(), pixels.max()))
    return f"{pixels.dtype} from {low} to {high}"


def _to_uint8(pixels: np.ndarray) -> str:
    """How to make pixels of another type uint8, as far as their range shows what they are."""
    kind = pixels.dtype.kind
    if kind == "b":
        return ": images.astype(np.uint8) * 255"
    if kind not in "iuf":
        return ""
    low, high = pixels.min(), pixels.max()
    if low < 0:
        return "; what is normalised already goes to the model as it is" if kind == "f" else ""
    if kind == "f" and high <= 1:
        return ": (images * 255).round().astype(np.uint8)"
    if high <= 255:
        return f": images{'.round()' if kind == 'f' else ''}.astype(np.uint8)"
    return ": (images >> 8).astype(np.uint8), if they are of 16 bits" if kind in "iu" and high <= 65535 else ""
