"""Random transforms: determined by the generator, and doing what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.configs.augmentation import Augmentation
from parity.configs.preprocessing import Preprocessing
from parity.data import (
    augment_image,
    horizontal_flip,
    random_resized_crop,
    random_rotate,
    random_shift,
    resize_and_crop,
)

pytest.importorskip("PIL")

EVERYTHING = Augmentation(random_resized_crop=(0.08, 1.0), horizontal_flip=True, shift=2, rotate=20.0)


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(1, 256, (23, 31, 3), np.uint8)


def _augment(image, seed, augmentation=EVERYTHING):
    rng = np.random.default_rng(seed)
    return augment_image(image, rng, size=(16, 12), augmentation=augmentation, preprocessing=Preprocessing())


def test_the_generator_decides(image):
    before = image.copy()
    np.testing.assert_array_equal(_augment(image, 5), _augment(image, 5))
    assert not np.array_equal(_augment(image, 5), _augment(image, 6))
    np.testing.assert_array_equal(image, before)
    assert _augment(image, 5).shape == (16, 12, 3)


# Mixing is of batches.
FIELDS = [field.name for field in dataclasses.fields(Augmentation) if field.name not in ("mixup", "cutmix")]


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_changes_the_image(field, image):
    alone = Augmentation(**{field: getattr(EVERYTHING, field)})
    plain = resize_and_crop(image, (16, 12), Preprocessing())
    assert any(not np.array_equal(_augment(image, seed, alone), plain) for seed in range(4))


def test_nothing_asked_is_evaluation(image):
    rng = np.random.default_rng(0)
    got = augment_image(image, rng, size=(16, 12), augmentation=Augmentation(), preprocessing=Preprocessing())
    np.testing.assert_array_equal(got, resize_and_crop(image, (16, 12), Preprocessing()))
    assert rng.random() == np.random.default_rng(0).random(), "nothing was drawn"


def test_flip_is_half_and_half(image):
    rng = np.random.default_rng(0)
    flipped = [np.array_equal(horizontal_flip(image, rng), image[:, ::-1]) for _ in range(400)]
    assert 150 < sum(flipped) < 250


def test_shift_moves_whole_pixels_and_fills_with_black(image):
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        got = random_shift(image, rng, pixels=1)
        matches = [
            (dy, dx)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if np.array_equal(got, np.pad(image, ((1, 1), (1, 1), (0, 0)))[1 - dy :, 1 - dx :][:23, :31])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 9


def test_rotate_stays_within_its_angle():
    image = np.zeros((65, 65, 1), np.uint8)
    image[31:34, 33:] = 255  # a ray from the centre to the right
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(100):
        rows, columns = np.nonzero(random_rotate(image, rng, degrees=10.0)[..., 0] > 127)
        angles.append(np.degrees(np.arctan2(rows.mean() - 32, columns.mean() - 32)))
    assert -11 < min(angles) < -8
    assert 8 < max(angles) < 11


def test_crop_has_the_area_and_shape_it_was_asked_for(monkeypatch):
    from parity.data.augment import resize

    shapes = []

    def spy(image, size, interpolation):
        shapes.append(image.shape[:2])
        return resize(image, size, interpolation)

    monkeypatch.setattr("parity.data.augment.resize", spy)
    image, rng = np.zeros((300, 400, 1), np.uint8), np.random.default_rng(0)
    for _ in range(300):
        random_resized_crop(image, rng, size=(8, 8), scale=(0.25, 0.75))
    h, w = np.array(shapes).T
    share = h * w / (300 * 400)
    assert 0.24 < share.min() < 0.3
    assert 0.6 < share.max() < 0.76
    assert 0.74 < (w / h).min() < 0.8
    assert 1.25 < (w / h).max() < 1.35


@pytest.mark.parametrize("shape", [(1, 1000, 1), (1000, 1, 1), (1, 1, 1), (3, 2, 3)])
def test_crop_of_odd_shapes(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert random_resized_crop(np.ones(shape, np.uint8), rng, size=(4, 6)).shape == (4, 6, shape[2])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("random_resized_crop", (0.0, 1.0)),
        ("random_resized_crop", (0.9, 0.1)),
        ("random_resized_crop", (0.5, 1.5)),
        ("shift", -1),
        ("rotate", -1.0),
        ("rotate", 181.0),
    ],
)
def test_config_rejects(field, value):
    with pytest.raises(ValueError, match=rf"{field}: got .*, expected"):
        Augmentation(**{field: value})
