"""Image files of every kind: which pixels they become, and that what can't be read is named."""

from __future__ import annotations

import numpy as np
import pytest

from parity.configs.image_folder import FolderOptions
from parity.data import ImageWarning, open_source
from parity.data.decode import decode

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def _luma(colours):
    """Pillow's `L`, in its integers."""
    red, green, blue = (colours[..., i].astype(np.int64) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]


def _both(path):
    return decode(path, 3), decode(path, 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P+alpha", "CMYK"])
def test_colours(mode, tmp_path):
    path = tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}"
    image, expected, options = Image.fromarray(COLOURS), COLOURS, {}
    if mode == "RGBA":  # what lies under transparency shows
        image.putalpha(Image.fromarray(RNG.integers(0, 256, (5, 7), np.uint8)))
    elif mode.startswith("P"):
        image = image.quantize(16)
        expected = np.asarray(image.convert("RGB"))
        options = {"transparency": bytes([0, 128, 255])} if mode == "P+alpha" else {}
    elif mode == "CMYK":
        image = image.convert("CMYK")
        expected = np.asarray(image.convert("RGB"))
    image.save(path, **options)
    colour, grey = _both(path)
    np.testing.assert_array_equal(colour, expected)
    np.testing.assert_array_equal(grey, _luma(expected))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey(mode, tmp_path):
    values = COLOURS[..., 0]
    image = Image.fromarray(values)
    if mode == "LA":
        image.putalpha(Image.fromarray(COLOURS[..., 1]))
    elif mode == "1":
        image = Image.fromarray(values > 127)
        values = np.where(values > 127, 255, 0).astype(np.uint8)
    image.save(tmp_path / "x.png")
    colour, grey = _both(tmp_path / "x.png")
    np.testing.assert_array_equal(grey, values[..., None])
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=-1))


@pytest.mark.parametrize(("suffix", "order"), [("png", "<"), ("tif", "<"), ("tif", ">"), ("pgm", ">")])
def test_sixteen_bits_give_their_high_byte(suffix, order, tmp_path):
    values = np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 5 1 65535\n" + values.astype(">u2").tobytes())
    elif order == ">":
        Image.frombytes("I;16B", (5, 1), values.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(values).save(path)
    colour, grey = _both(path)
    np.testing.assert_array_equal(grey[0, :, 0], [0, 0, 1, 156, 255])
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range(dtype, tmp_path):
    Image.fromarray(np.full((4, 6), 3, dtype)).save(tmp_path / "x.tif")
    with pytest.raises(
        ValueError, match=r"x\.tif: .*got pixels of mode [IF], whose range isn't known; expected 8 or 16"
    ):
        decode(tmp_path / "x.tif", 3)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_taken_and_said(suffix, tmp_path):
    frames = [Image.new("RGB", (6, 4), (value, value, value)) for value in (51, 102, 204)]
    path = tmp_path / f"x.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    with pytest.warns(ImageWarning, match="file holds several frames, of which the first is the image"):
        pixels = decode(path, 3)
    np.testing.assert_array_equal(pixels, np.full((4, 6, 3), 51, np.uint8))


def test_pictures_of_a_phone_are_jpegs(tmp_path):
    photo = Image.new("RGB", (16, 16), (200, 200, 200))
    photo.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    with Image.open(tmp_path / "x.jpg") as photo:
        assert photo.format == "MPO"
    assert abs(decode(tmp_path / "x.jpg", 3).astype(int) - 200).max() <= 2


def test_content_decides_not_the_suffix(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "x.jpg", format="PNG")
    np.testing.assert_array_equal(decode(tmp_path / "x.jpg", 3), COLOURS)


def test_formats_that_run_programs_are_not_tried(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(ValueError, match=r"x\.png: can't be read as an image: it is none of PNG, JPEG, WEBP, BMP"):
        decode(tmp_path / "x.png", 3)


# --- EXIF ---

# Where the array must be turned to stand upright, by the orientation's number.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_exif_orientation_is_an_option(orientation, in_chans, tmp_path):
    photo = pytest.importorskip("sklearn.datasets").load_sample_images().images[0][:96, :160]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "pets/train/cat/x.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(photo).save(path, exif=exif)
    sources = [
        open_source(str(tmp_path / "pets"), "train", folder=options).with_channels(in_chans)
        for options in (None, FolderOptions(exif_orientation=True))
    ]
    stored, upright = (source[0]["image"] for source in sources)
    assert stored.shape == (96, 160, in_chans)
    np.testing.assert_array_equal(upright, UPRIGHT[orientation](stored))


# --- what can't be read ---


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("empty", "the file is empty$"),
        ("garbage", "it is none of PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM$"),
        ("truncated", ".*truncated"),
        ("header", "[^\n]+$"),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp", "bmp"])
def test_damaged_file_is_named(damage, reason, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    if damage == "truncated" and suffix in ("tif", "webp", "bmp", "gif"):
        reason = "[^\n]+$"  # each has words of its own
    path.write_bytes(
        {"empty": b"", "garbage": b"no image", "truncated": content[: len(content) * 2 // 3]}.get(damage, content[:24])
    )
    with pytest.raises(ValueError, match=rf"^{path}: can't be read as an image: {reason}"):
        decode(path, 3)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"^{tmp_path}/x.png: can't be read as an image: No such file or directory$"):
        decode(tmp_path / "x.png", 3)


def test_a_bomb_is_one_line(tmp_path, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(
        ValueError, match=r"^[^\n]*x\.png: can't be read as an image: Image size \(35 pixels\) exceeds[^\n]*$"
    ):
        decode(tmp_path / "x.png", 3)
