"""Preprocessing of real photographs, against Pillow called by hand."""

from __future__ import annotations

import numpy as np
import pytest

from parity.configs.preprocessing import HALF, Preprocessing
from parity.data import normalize, resize_and_crop

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module", params=["landscape", "portrait"])
def photo(request):
    """A photograph, 427x640 or 640x427."""
    image = pytest.importorskip("sklearn.datasets").load_sample_images().images[0]
    assert image.shape == (427, 640, 3)
    return image if request.param == "landscape" else np.ascontiguousarray(image.transpose(1, 0, 2))


def _by_hand(photo, scaled, box, kernel):
    """`scaled` and `box` are written for the landscape, as Pillow has them: (width, height), (left, top, ...)."""
    if photo.shape[0] > photo.shape[1]:
        scaled, box = scaled[::-1], (box[1], box[0], box[3], box[2])
    return np.asarray(Image.fromarray(photo).resize(scaled, kernel).crop(box))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_center(photo, interpolation):
    # 224 / 0.875 = 256; 256 * 640 / 427 = 383.7, rounded down; (383 - 224) / 2 = 79.5, rounded to even.
    expected = _by_hand(photo, (383, 256), (80, 16, 304, 240), Image.Resampling[interpolation.upper()])
    got = resize_and_crop(photo, (224, 224), Preprocessing(crop_pct=0.875, interpolation=interpolation))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_center_rounds_the_scaled_side_down(photo):
    # 224 / 0.9 = 248.9 -> 248; 248 * 640 / 427 = 371.7 -> 371; (371 - 224) / 2 = 73.5 -> 74
    expected = _by_hand(photo, (371, 248), (74, 12, 298, 236), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize_and_crop(photo, (224, 224), Preprocessing()), expected)


def test_center_of_a_size_that_is_not_square(photo):
    # The landscape must cover 240x200 (w, h): the ratio is min(427 / 200, 640 / 240) = 2.135.
    size = (160, 192) if photo.shape[0] < photo.shape[1] else (192, 160)
    expected = _by_hand(photo, (round(640 / 2.135), 200), (54, 20, 246, 180), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize_and_crop(photo, size, Preprocessing(crop_pct=0.8)), expected)


@pytest.mark.parametrize(("crop_pct", "scaled"), [(1.0, 224), (0.875, 256)])
def test_squash(photo, crop_pct, scaled):
    start = (scaled - 224) // 2
    box = (start, start, start + 224, start + 224)
    expected = _by_hand(photo, (scaled, scaled), box, Image.Resampling.BICUBIC)
    got = resize_and_crop(photo, (224, 224), Preprocessing(crop_mode="squash", crop_pct=crop_pct))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_do_not_mix(photo, channels):
    stacked = np.concatenate([photo, 255 - photo], axis=-1)[..., :channels]
    got = resize_and_crop(stacked, (32, 48), Preprocessing())
    for i in range(channels):
        alone = resize_and_crop(stacked[..., i : i + 1], (32, 48), Preprocessing())
        np.testing.assert_array_equal(got[..., i : i + 1], alone)


def test_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    np.testing.assert_array_equal(resize_and_crop(image, (8, 8), Preprocessing(crop_pct=1.0)), image)


@pytest.mark.parametrize("size", [(1, 1), (3, 60), (60, 3), (7, 11)])
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 90, 3), (90, 2, 3), (13, 17, 3)])
@pytest.mark.parametrize("crop_pct", [0.3, 0.9, 1.0])
def test_any_shape_gives_the_size(shape, size, crop_pct):
    for crop_mode in ("center", "squash"):
        preprocessing = Preprocessing(crop_pct=crop_pct, crop_mode=crop_mode)
        assert resize_and_crop(np.zeros(shape, np.uint8), size, preprocessing).shape == (*size, 3)


def test_resize_rejects_what_is_no_image():
    with pytest.raises(ValueError, match=r"image: got float32 \(4, 4, 3\), expected uint8 \(h, w, c\)"):
        resize_and_crop(np.zeros((4, 4, 3), np.float32), (2, 2), Preprocessing())
    with pytest.raises(ValueError, match=r"got uint8 \(4, 4\), expected uint8"):
        resize_and_crop(np.zeros((4, 4), np.uint8), (2, 2), Preprocessing())


def test_normalize(photo):
    images = photo[None, :64, :48]
    preprocessing = Preprocessing()
    exact = (images / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    double = normalize(images, preprocessing, np.float64)
    assert double.dtype == np.float64
    np.testing.assert_array_equal(double, exact)
    single = normalize(images, preprocessing)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=0, atol=8 * np.finfo(np.float32).eps)
    np.testing.assert_array_equal(normalize(images, preprocessing, np.float16), single.astype(np.float16))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_mean_for_all_channels(photo, channels):
    images = photo[:64, :48, :channels]
    got = normalize(images, Preprocessing(mean=(0.25,), std=(0.5,)), np.float64)
    np.testing.assert_array_equal(got, (images / 255 - 0.25) / 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_border_of_one_mean(photo, channels):
    preprocessing = Preprocessing(mean=(0.4,), std=(0.5,), crop_mode="border", crop_pct=1.0)
    got = resize_and_crop(photo[..., :channels], (32, 32), preprocessing)
    corners = got[:2, 0] if photo.shape[0] < photo.shape[1] else got[0, :2]
    np.testing.assert_array_equal(corners, np.full((2, channels), 102))


def test_the_mean_of_grey_images_follows_from_that_of_their_colours(photo):
    mean, std = (tuple(values(photo / 255, axis=(0, 1)).tolist()) for values in (np.mean, np.std))
    grey = Preprocessing(mean=mean, std=std, crop_pct=0.7, crop_mode="squash").grey()
    luma = photo / 255 @ (0.299, 0.587, 0.114)
    assert grey.mean == (round(luma.mean(), 6),)
    assert luma.std() <= grey.std[0] <= 1.1 * luma.std()
    assert (grey.crop_pct, grey.crop_mode) == (0.7, "squash")
    assert grey.grey() is grey
    half = Preprocessing(mean=HALF, std=HALF).grey()
    assert (half.mean, half.std) == ((0.5,), (0.5,))


def test_normalize_errors():
    with pytest.raises(ValueError, match="got 1 channels, expected 3"):
        normalize(np.zeros((2, 4, 4, 1), np.uint8), Preprocessing())
    with pytest.raises(ValueError, match="got float64, expected uint8"):
        normalize(np.zeros((2, 4, 4, 3)), Preprocessing())
