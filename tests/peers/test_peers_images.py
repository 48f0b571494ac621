"""Image files and folders against torchvision's `ImageFolder` and timm's dataset: pixels, labels and their order."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageDataset
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key
from torchvision.datasets import ImageFolder

from parity.configs.image_folder import FolderOptions
from parity.data import open_source
from parity.data.decode import decode

PHOTO = Image.fromarray(load_sample_images().images[0][:90, :120])
CLASSES = ("1", "10", "2", "Ant", "bee", "cat9", "cat10")


def _mask() -> Image.Image:
    return PHOTO.rotate(90).resize(PHOTO.size).convert("L")


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(_mask())
    return image


def _tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


# File name: an image, and how it is saved.
FILES = {
    "colour.jpg": (PHOTO, {}),
    "colour.PNG": (PHOTO, {}),
    "colour.tif": (PHOTO, {}),
    "colour.webp": (PHOTO, {}),
    "colour.bmp": (PHOTO, {}),
    "colour.ppm": (PHOTO, {}),
    "grey.jpeg": (PHOTO.convert("L"), {}),
    "grey.pgm": (PHOTO.convert("L"), {}),
    "grey_alpha.png": (_with_alpha(PHOTO.convert("L")), {}),
    "alpha.png": (_with_alpha(PHOTO.copy()), {}),
    "alpha.webp": (_with_alpha(PHOTO.copy()), {}),
    "palette.png": (PHOTO.quantize(64), {}),
    "palette_transparent.png": (PHOTO.quantize(64), {"transparency": bytes(range(0, 256, 4))}),
    "palette_key.png": (PHOTO.quantize(64), {"transparency": 3}),
    "cmyk.jpg": (PHOTO.convert("CMYK"), {}),
    "cmyk.tiff": (PHOTO.convert("CMYK"), {}),
    "ycc.tif": (PHOTO.convert("YCbCr"), {}),
    "bits.png": (PHOTO.convert("1"), {}),
    "bits.tif": (PHOTO.convert("1"), {}),
    "turned.jpg": (PHOTO, {"exif": _tagged()}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "pets"
    for split in ("train", "val"):
        for name in CLASSES:
            (root / split / name / "nested").mkdir(parents=True)
            PHOTO.resize((8, 8)).save(root / split / name / "nested" / "x.png")
    for name, (image, options) in FILES.items():
        image.save(root / "train/bee" / name, **options)
    return root


def test_pixels_of_torchvision(files):
    theirs = ImageFolder(str(files / "train"))
    ours = open_source(str(files), "train", folder=FolderOptions(class_order="sorted"))
    assert list(ours.class_names) == theirs.classes
    by_path = {Path(path): (i, label) for i, (path, label) in enumerate(theirs.samples)}
    assert len(by_path) == len(ours) == len(FILES) + len(CLASSES)
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of transparent palettes
        for example, path in zip(ours, ours.files, strict=True):  # pyright: ignore[reportAttributeAccessIssue]
            index, label = by_path[path]
            np.testing.assert_array_equal(example["image"], np.asarray(theirs[index][0]), err_msg=str(path))
            assert example["label"] == label


@pytest.mark.parametrize(("in_chans", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("name", FILES)
def test_pixels_of_timm(name, in_chans, mode, files, tmp_path):
    (tmp_path / "bee").mkdir()
    path = tmp_path / "bee" / f"x{Path(name).suffix.lower()}"
    path.write_bytes((files / "train/bee" / name).read_bytes())
    reader = ReaderImageFolder(str(tmp_path), input_key=path.suffix)
    with warnings.catch_warnings(action="ignore"):
        theirs = np.asarray(ImageDataset(str(tmp_path), reader=reader, input_img_mode=mode)[0][0])
    np.testing.assert_array_equal(decode(path, in_chans), theirs.reshape(*theirs.shape[:2], in_chans))


def test_sixteen_grey_bits_are_where_we_differ(tmp_path):
    """They clip to 255; of colours of 16 bits Pillow takes the high byte, as we do of grey."""
    values = np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, :, 0], [0, 255, 255, 255, 255])
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3)[0, :, 0], values[0] >> 8)
    (tmp_path / "colour.png").write_bytes(_png_of_sixteen_bits(np.repeat(values[..., None], 3, axis=-1)))
    np.testing.assert_array_equal(decode(tmp_path / "colour.png", 3), np.repeat(values[..., None] >> 8, 3, axis=-1))


def _png_of_sixteen_bits(colours: np.ndarray) -> bytes:
    """Pillow writes none."""
    height, width, _ = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_labels_of_timm(tmp_path):
    for name in CLASSES:
        (tmp_path / "pets/train" / name).mkdir(parents=True)
        PHOTO.resize((8, 8)).save(tmp_path / "pets/train" / name / "x.png")
    theirs = ReaderImageFolder(str(tmp_path / "pets/train")).class_to_idx
    ours = open_source(str(tmp_path / "pets"), "train", folder=FolderOptions(class_order="natural"))
    assert list(ours.class_names) == sorted(theirs, key=theirs.__getitem__) == sorted(CLASSES, key=natural_key)
    assert list(ours.class_names) != sorted(CLASSES), "the names don't tell the two orders apart"
