"""scikit-learn's handwritten digits as a TFDS data set: 1,797 real images, at hand without a download.

The images are 8x8 and grey, 17 levels (0..16) spread over 0..255. They are a preprocessed copy of the test part of
UCI's "Optical Recognition of Handwritten Digits". scikit-learn names no split, so this one is fixed here: an image
whose index is a multiple of 5 is a test image (360), the others are training images (1,437), each part in
scikit-learn's order.

Importing this module imports tensorflow_datasets, so the package does it only when `open_source("digits", ...)` runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from parity.data.extras import require

_TEST_EVERY = 5


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """Builder of the TFDS set `sklearn_digits`: `image` (8, 8, 1) uint8, `label` in 0..9."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for it with importlib_resources, which it uses and (4.9.10, Python 3.9 on) does not depend on.
    code_path = epath.Path(__file__)  # pyright: ignore[reportAssignmentType]
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads it from the class)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8x8 and grey, as scikit-learn ships them.",
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # an index into a split then says which of scikit-learn's images it is
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples(test=False), "test": self._generate_examples(test=True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        # As a PIL image: TFDS encodes those without TensorFlow, a numpy array only with it.
        pil = require("PIL.Image")
        digits = require("sklearn.datasets").load_digits()
        images = np.round(digits.images * 255 / 16).astype(np.uint8)
        for index, (image, label) in enumerate(zip(images, digits.target, strict=True)):
            if (index % _TEST_EVERY == 0) == test:
                yield index, {"image": pil.fromarray(image), "label": int(label)}
