"""The digits, prepared once, and the settings that most tests of batches share."""

from __future__ import annotations

from typing import Any

import pytest

from parity.configs.augmentation import Augmentation
from parity.configs.preprocessing import Preprocessing


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    from parity.data import open_source

    directory = tmp_path_factory.mktemp("digits")
    open_source("digits", "train", data_dir=directory)
    return directory


@pytest.fixture(scope="session")
def digits_train(digits_dir):
    from parity.data import open_source

    return open_source("digits", "train", data_dir=digits_dir)


@pytest.fixture(scope="session")
def digits_test(digits_dir):
    from parity.data import open_source

    return open_source("digits", "test", data_dir=digits_dir)


@pytest.fixture(scope="session")
def preprocessing():
    return Preprocessing(mean=(0.5,), std=(0.5,), crop_pct=1.0, interpolation="bilinear")


@pytest.fixture(scope="session")
def train_options(preprocessing) -> dict[str, Any]:
    """Every kind of randomness at once, and a size that isn't square."""
    augmentation = Augmentation(random_resized_crop=(0.5, 1.0), horizontal_flip=True, shift=1, rotate=15.0)
    return {
        "batch_size": 48,
        "image_size": (12, 10),
        "preprocessing": preprocessing,
        "augmentation": augmentation,
        "seed": 3,
    }
