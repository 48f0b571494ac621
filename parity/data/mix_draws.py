"""How the images of a batch are mixed with each other: the random numbers, drawn on the host.

The mixing itself is `vit_jax/mix.py` and `vit_torch/mix.py`, on the device. Partners are neighbours, rows 2i and
2i + 1: they sit on one device, so that nothing is sent, and images are shuffled anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.configs.augmentation import Augmentation

_STREAM = 0x6D6978  # apart from what else is drawn from the seed


@dataclass(frozen=True)
class Mix:
    """Adds to each batch what its rows are mixed with.

    Attributes:
        augmentation: Gives the distributions.
        seed: The seed of the run.
        image_size: (height, width) in pixels.
        batch_size: The size of the global batch.
        rows: The rows of the global batch that are there; None for all.
    """

    augmentation: Augmentation
    seed: int
    image_size: tuple[int, int]
    batch_size: int
    rows: Sequence[int] | None = None

    def __call__(self, step: int, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch with `lam`, float32 (b,), and `box`, int32 (b, 4): top, left, bottom, right; empty without cutmix.

        A row becomes lam of itself and 1 - lam of its partner, or all of itself but for the box of its partner.
        """
        rng = np.random.default_rng((_STREAM, self.seed, step))
        pairs = [draw(rng, self.image_size, self.augmentation) for _ in range(self.batch_size // 2)]
        lam, box = (np.repeat(np.asarray(values), 2, axis=0) for values in zip(*pairs, strict=True))
        rows = slice(None) if self.rows is None else np.asarray(self.rows)
        return batch | {"lam": lam[rows].astype(np.float32), "box": box[rows].astype(np.int32)}


def draw(
    rng: np.random.Generator, image_size: tuple[int, int], augmentation: Augmentation
) -> tuple[float, tuple[int, int, int, int]]:
    """Weight and box of one pair; the weight of a box is the share of the image that it leaves."""
    either = augmentation.mixup > 0 and augmentation.cutmix > 0
    if augmentation.cutmix == 0 or (either and rng.random() < 0.5):
        return float(rng.beta(augmentation.mixup, augmentation.mixup)), (0, 0, 0, 0)
    height, width = image_size
    side = math.sqrt(1 - rng.beta(augmentation.cutmix, augmentation.cutmix))
    centre, half = rng.uniform(size=2), side / 2
    top, bottom = (int(np.clip(round((centre[0] + by) * height), 0, height)) for by in (-half, half))
    left, right = (int(np.clip(round((centre[1] + by) * width), 0, width)) for by in (-half, half))
    return 1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right)
