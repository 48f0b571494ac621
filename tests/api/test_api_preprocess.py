"""`preprocess`: images as people have them become what evaluation makes of them, the same in both twins."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.normalize
import vit_torch
import vit_torch.normalize
from parity import configs
from parity.configs import Preprocessing
from parity.data import eval_batches, open_source
from parity.data.decode import ImageWarning, decode
from parity.data.pixels import pixels_of
from parity.tolerances import PIXELS

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (61, 83, 3), np.uint8)
GREY = COLOURS[..., 0]
CONFIG = configs.get("vit_test", preprocessing=Preprocessing(crop_pct=0.8))
GREY_CONFIG = configs.get("vit_test", in_chans=1, preprocessing=Preprocessing().grey())


def twins(images: object, model: object = CONFIG, **options: object) -> np.ndarray:
    """The outputs of both, which must be equal, as (b, h, w, c)."""
    flax, torchs = vit_jax.preprocess(images, model, **options), vit_torch.preprocess(images, model, **options)
    assert flax.dtype == jnp.float32
    assert torchs.dtype == torch.float32
    assert_same_pixels(flax, torchs.permute(0, 2, 3, 1))
    return np.asarray(flax)


def assert_same_pixels(left: object, right: object, std: float = 0.225) -> None:
    """Equal but for how the normalisation is rounded: XLA multiplies by 1 / 255 and fuses what PyTorch doesn't."""
    assert np.abs(np.asarray(left) - np.asarray(right)).max() * std * 255 <= PIXELS.limit


def same(images: object, expected: object, model: object = CONFIG, **options: object) -> None:
    np.testing.assert_array_equal(twins(images, model, **options), twins(expected, model))


# What a file or a PIL image of each mode is as an array.
MODES = {
    "RGB": (lambda: Image.fromarray(COLOURS), COLOURS),
    "L": (lambda: Image.fromarray(GREY), GREY[..., None]),
    "RGBA": (lambda: Image.fromarray(np.dstack([COLOURS, GREY])), COLOURS),
    "LA": (lambda: Image.fromarray(np.dstack([GREY, GREY]), "LA"), GREY),
    "1": (lambda: Image.fromarray(GREY > 127), (GREY > 127).astype(np.uint8) * 255),
    "I;16": (lambda: Image.fromarray(GREY.astype(np.uint16) * 256 + 77), GREY),
    "P": (
        lambda: Image.fromarray(COLOURS).quantize(16),
        np.asarray(Image.fromarray(COLOURS).quantize(16).convert("RGB")),
    ),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_image(mode, tmp_path):
    image, pixels = MODES[mode][0](), MODES[mode][1]
    assert image.mode == mode
    path = tmp_path / "x.png"
    image.save(path)
    for config in (CONFIG, GREY_CONFIG):
        for given in (image, path, str(path)):
            same(given, pixels, config)
        same([path, image, pixels], [pixels] * 3, config)
        np.testing.assert_array_equal(pixels_of(path, config), pixels_of(decode(path, config.in_chans), config))


def test_arrays_lists_and_batches():
    batch = RNG.integers(0, 256, (3, 61, 83, 3), np.uint8)
    expected = twins(batch)
    assert expected.shape == (3, 24, 40, 3)
    for several in (
        list(batch),
        tuple(batch),
        jnp.asarray(batch),
        torch.from_numpy(batch),
        [*map(Image.fromarray, batch)],
    ):
        np.testing.assert_array_equal(twins(several), expected)
    for one in (batch[0], batch[:1], [batch[0]], jnp.asarray(batch[0]), np.dstack([batch[0], GREY])):
        np.testing.assert_array_equal(twins(one), expected[:1])
    sizes = [batch[0], batch[1, :50, :30], batch[2, 7:]]
    np.testing.assert_array_equal(twins(sizes), np.concatenate([twins(image) for image in sizes]))


def test_the_comparison_can_fail():
    off = COLOURS.copy()
    off[20:40, 30:50] ^= 1
    with pytest.raises(AssertionError):
        assert_same_pixels(twins(off), twins(COLOURS))


def test_orientation_is_turned_where_it_is_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.png"
    Image.fromarray(COLOURS).save(path, exif=exif)
    same(path, COLOURS)
    same(path, np.rot90(COLOURS, -1), exif_orientation=True)
    with Image.open(path) as image:
        same(image, np.rot90(COLOURS, -1), exif_orientation=True)


def test_models_configs_and_names():
    expected = twins(COLOURS, configs.get("vit_test"))
    flax = nnx.eval_shape(lambda: vit_jax.create_model("vit_test", depth=1, rngs=nnx.Rngs(0)))
    torchs = vit_torch.create_model("vit_test", depth=1)
    np.testing.assert_array_equal(vit_jax.preprocess(COLOURS, "vit_test"), expected)
    np.testing.assert_array_equal(vit_jax.preprocess(COLOURS, flax), expected)
    assert_same_pixels(vit_torch.preprocess(COLOURS, torchs).permute(0, 2, 3, 1), expected)
    inputs = vit_jax.preprocess(COLOURS, flax)
    assert nnx.eval_shape(lambda model, images: model(images), flax, inputs).shape == (1, 10)
    assert torchs(vit_torch.preprocess(COLOURS, torchs)).shape == (1, 10)
    assert vit_torch.preprocess(COLOURS, vit_torch.create_model("vit_test", device="meta")).device.type == "meta"


def test_another_size_for_models_that_take_it():
    dynamic = configs.get("test_vit")
    assert twins(COLOURS, dynamic).shape == (1, 160, 160, 3)
    same(COLOURS, COLOURS, dynamic, image_size=160)
    assert twins(COLOURS, dynamic, image_size=(32, 48)).shape == (1, 32, 48, 3)
    same(COLOURS, COLOURS, configs.get("vit_test", preprocessing=CONFIG.preprocessing), image_size=(24, 40))
    for model, size, said in (
        (dynamic, (33, 48), r"image_size: got \(33, 48\), expected multiples of patch_size"),
        (
            "vit_test",
            48,
            r"image_size: got \(48, 48\), but the model takes \(24, 40\); load\(\.\.\., image_size=\.\.\.\)",
        ),
    ):
        for side in (vit_jax, vit_torch):
            with pytest.raises(ValueError, match=said):
                side.preprocess(COLOURS, model, image_size=size)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set of images of several kinds and sizes."""
    for i in range(5):
        path = tmp_path / "data/test" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((COLOURS, GREY)[i % 2][i : 40 + i, : 70 - i]).save(path)
    return tmp_path / "data"


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_it_is_what_evaluation_sees(folder, crop_mode):
    """Pixels bit for bit, and the twins' own `normalize` of them."""
    pytest.importorskip("grain")
    preprocessing = Preprocessing(crop_pct=0.9, crop_mode=crop_mode)
    config = configs.get("vit_test", preprocessing=preprocessing)
    source = open_source(str(folder), "test").with_channels(3)
    (batch,) = eval_batches(source, batch_size=5, image_size=config.image_size, preprocessing=preprocessing)
    paths = sorted((folder / "test").glob("*/*.png"))
    np.testing.assert_array_equal(pixels_of(paths, config), batch["image"])
    flax = vit_jax.normalize.normalize(jnp.asarray(batch["image"]), preprocessing, jnp.float32)
    np.testing.assert_array_equal(vit_jax.preprocess(paths, config), flax)
    torchs = vit_torch.normalize.normalize(torch.from_numpy(batch["image"]), preprocessing, torch.float32)
    assert torch.equal(vit_torch.preprocess(paths, config), torchs)
    jitted = jax.jit(vit_jax.normalize.normalize, static_argnums=(1, 2))(batch["image"], preprocessing, jnp.float32)
    assert_same_pixels(jitted, flax)


WRONG = {
    "floats of 0 to 1": (COLOURS / 255, r"got float64 from 0 to 1, expected uint8, 0 to 255: \(images \* 255\)\.round"),
    "floats of 0 to 255": (COLOURS.astype("f4"), r"float32 from 0 to 255, expected uint8.*: images\.round\(\)\.astype"),
    "normalised": (COLOURS / 128 - 1, "got float64 from -1 to .*; what is normalised already goes to the model"),
    "integers": (
        COLOURS.astype(int),
        r"got int64 from 0 to 255, expected uint8, 0 to 255: images\.astype\(np\.uint8\)$",
    ),
    "16 bits": (COLOURS.astype(np.uint16) * 257, r"got uint16 from 0 to 65535, .*: \(images >> 8\)\.astype"),
    "masks": (GREY > 127, r"got bool, expected uint8, 0 to 255: images\.astype\(np\.uint8\) \* 255$"),
    "a PIL image of floats": (Image.fromarray(GREY.astype("f4")), "got pixels of mode F, whose range isn't known"),
    "channels first": (
        COLOURS.transpose(2, 0, 1),
        r"got shape \(3, 61, 83\), expected \(h, w, c\); channels come last: np\.transpose\(images, \(1, 2, 0\)\)$",
    ),
    "a batch of channels first": (
        np.zeros((2, 3, 24, 40), np.uint8),
        r"got shape \(2, 3, 24, 40\), expected \(b, h, w, c\); .*\(0, 2, 3, 1\)\)$",
    ),
    "a batch of grey": (np.zeros((10, 28, 28), np.uint8), r"got shape \(10, 28, 28\), .*images\[\.\.\., None\]$"),
    "a batch in a list": ([COLOURS[None]], r"images\[0\]: got shape \(1, 61, 83, 3\), expected \(h, w, c\)$"),
    "nothing": ([], "images: got none, expected a path, a PIL image or an array"),
    "no pixels": (np.zeros((0, 4, 3), np.uint8), r"got shape \(0, 4, 3\)"),
    "one axis": (np.zeros(4, np.uint8), r"got shape \(4,\), expected \(h, w, c\)$"),
    "five axes": (np.zeros((1, 1, 4, 4, 3), np.uint8), r"got shape \(1, 1, 4, 4, 3\), expected \(h, w, c\)$"),
    "bytes": (b"\x89PNG", "got bytes, expected a path, a PIL image or an array uint8"),
    "a generator": ((x for x in [COLOURS]), "got generator, expected a path, .* or a list of these$"),
    "an element": ([COLOURS, None], r"images\[1\]: got NoneType, expected a path"),
    "a tensor without values": (torch.zeros(4, 4, 3, device="meta"), "got Tensor, expected an array on the host: "),
    "a missing file": ("no such.png", r"^no such\.png: can't be read as an image: No such file or directory$"),
    "a directory": (Path(__file__).parent, "can't be read as an image: Is a directory$"),
    "no image": (Path(__file__), "can't be read as an image: it is none of PNG, JPEG"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("side", [vit_jax, vit_torch], ids=lambda side: side.__name__)
def test_what_is_no_image_is_one_line(side, case):
    images, said = WRONG[case]
    with pytest.raises(ValueError, match=said) as caught:
        side.preprocess(images, CONFIG)
    assert "\n" not in str(caught.value)
    assert "images" in str(caught.value) or "can't be read" in str(caught.value)


def test_the_advice_of_the_errors_works():
    same((COLOURS / 255 * 255).round().astype(np.uint8), COLOURS)
    same(np.transpose(COLOURS.transpose(2, 0, 1), (1, 2, 0)), COLOURS)
    same((COLOURS.astype(np.uint16) * 257 >> 8).astype(np.uint8), COLOURS)


def test_traced_arrays_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected an array on the host: The numpy\.ndarray conversion"):
        jax.jit(lambda images: vit_jax.preprocess(images, CONFIG))(COLOURS)
    path = tmp_path / "x.png"
    Image.fromarray(COLOURS).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(ValueError, match=r"^images: .*truncated"):
        vit_jax.preprocess(image, CONFIG)
    with pytest.raises(ValueError, match=r"x\.png: can't be read as an image: .*truncated"):
        vit_torch.preprocess([COLOURS, path], CONFIG)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("vit_tst", "unknown model 'vit_tst'; did you mean 'vit_test'"),
        (3, "model: got int, expected a model, its config, or a registered name"),
        (Preprocessing(), "model: got Preprocessing, expected a model"),
    ],
)
def test_what_is_no_model(model, said):
    for side in (vit_jax, vit_torch):
        with pytest.raises(ValueError, match=said):
            side.preprocess(COLOURS, model)


def test_other_numbers_of_channels_are_arrays():
    config = configs.get("vit_test", in_chans=5, preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)))
    images = RNG.integers(0, 256, (30, 50, 5), np.uint8)
    assert twins(images, config).shape == (1, 24, 40, 5)
    for wrong, said in (
        (COLOURS, "got 3 channels, expected 5"),
        ("x.png", "got str, expected an array of the model's 5"),
    ):
        with pytest.raises(ValueError, match=said):
            vit_jax.preprocess(wrong, config)


def test_several_frames_are_said(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(ImageWarning, match="several frames, of which the first is the image"):
        vit_jax.preprocess(tmp_path / "x.gif", CONFIG)


@pytest.mark.parametrize("side", [vit_jax, vit_torch], ids=lambda side: side.__name__)
def test_without_pillow_the_extra_is_named(side, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ModuleNotFoundError, match=r"PIL, which isn't installed: pip install 'vit-parity\[data\]'"):
        side.preprocess("x.png", CONFIG)
    exact = np.zeros((24, 40, 3), np.uint8)  # neither read nor resized
    assert side.preprocess(exact, configs.replace(CONFIG, preprocessing=Preprocessing(crop_pct=1.0))).shape[0] == 1
