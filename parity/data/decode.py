"""From an image file to pixels: which formats are read, and what each kind of pixel becomes.

Everything is what `Image.open(file).convert("RGB")`, or `"L"` for grey, makes of it, as in torchvision and timm, but
for one thing: they clip grey values of 16 bits to 255, which leaves a white image. Here their high byte is taken, as
Pillow itself does with colours of 16 bits.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.extras import require

# Only these of Pillow's formats are tried, for others run programs (EPS) or want memory that a header can't foretell.
# A JPEG of several pictures (MPO, from phones) comes by the name of JPEG.
_SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_MODES = {1: "L", 3: "RGB"}


class ImageWarning(UserWarning):
    """Something of an image file or folder that isn't read, or is read in one of two ways."""


def decode(path: Path, in_chans: int, *, exif_orientation: bool = False) -> np.ndarray:
    """Reads an image file.

    Transparency is dropped and what lies under it shows; grey is Pillow's `L`, 0.299 red + 0.587 green + 0.114 blue; of
    several frames or pages the first is taken, with a warning; of 16 bits the upper 8 are taken.

    Args:
        path: The file; its content, not its suffix, decides the format.
        in_chans: Channels of the result: 1 for grey, 3 for RGB.
        exif_orientation: Whether to turn the image upright as its EXIF orientation says.

    Returns:
        uint8 (h, w, in_chans).

    Raises:
        ValueError: The file isn't a whole image of a known format, or has too many pixels, or pixels without a known
            range (32-bit integers, floats); names the file.
    """
    pil = require("PIL.Image")
    try:
        with pil.open(path, formats=tuple(_SUFFIXES)) as file:
            _say_frames(file)
            return decoded(file, in_chans, exif_orientation=exif_orientation)
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error and more
        raise ValueError(f"{path}: can't be read as an image: {_reason(path, error)}") from error


def decoded(image: Any, in_chans: int, *, exif_orientation: bool = False) -> np.ndarray:
    """The pixels of an opened `PIL.Image.Image`, with the rules of `decode`.

    Args:
        image: The image, of any mode; a file behind it is read.
        in_chans: Channels of the result: 1 for grey, 3 for RGB.
        exif_orientation: Whether to turn the image upright as its EXIF orientation says.

    Returns:
        uint8 (h, w, in_chans).

    Raises:
        ValueError: The image has pixels without a known range (32-bit integers, floats). A file that is damaged raises
            what Pillow's plugin for it raises.
    """
    image = _eight_bits(require("PIL.ImageOps").exif_transpose(image) if exif_orientation else image)
    pixels = np.array(image.convert(_MODES[in_chans]))
    return pixels.reshape(*pixels.shape[:2], in_chans)


def with_channels(image: np.ndarray, in_chans: int) -> np.ndarray:
    """Decoded pixels, uint8 (h, w, 1 or 3), with `in_chans` channels: grey is repeated, RGB becomes Pillow's `L`."""
    if image.shape[-1] == in_chans:
        return image
    if in_chans == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(require("PIL.Image").fromarray(image).convert("L"))[..., None]


def _say_frames(file: Any) -> None:
    # The other pictures of an MPO are previews, or the same scene for the other eye. No file is named, so that Python
    # says each line once.
    if file.format != "MPO" and getattr(file, "is_animated", False):
        warnings.warn(
            f"a {file.format} file holds several frames, of which the first is the image; so with all that follow",
            ImageWarning,
            stacklevel=3,
        )


def _eight_bits(image: Any) -> Any:
    """The image with a mode that `convert` takes to 8 bits without clipping, and without a warning."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):  # Pillow brings a PGM's range to 16 bits
        return require("PIL.Image").fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if mode in ("I", "F"):
        raise ValueError(f"got pixels of mode {mode}, whose range isn't known; expected 8 or 16 bits for each channel")
    # Pillow warns of a palette whose colours are partly transparent, and gives the same colours.
    return image.convert("RGBA") if mode == "P" and "transparency" in image.info else image


def _reason(path: Path, error: Exception) -> str:
    """Why a file can't be read, in one line, without its path."""
    if isinstance(error, require("PIL").UnidentifiedImageError):
        return "the file is empty" if path.stat().st_size == 0 else f"it is none of {', '.join(_SUFFIXES)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
