"""Batches for training and evaluation, with grain.

A global batch depends on the seed and the step alone: not on the number of processes, workers or threads. Batches are
uint8, for normalising on the host would halve the images per second: the consumer calls `normalize`, or does the same
on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.configs.augmentation import Augmentation
from parity.configs.preprocessing import Preprocessing
from parity.data.augment import augment_image
from parity.data.extras import require
from parity.data.mix_draws import Mix
from parity.data.sources import Source
from parity.data.transforms import resize_and_crop

if TYPE_CHECKING:
    from parity.data.iterator import TrainIterator

Batch = dict[str, np.ndarray]
_EVAL_THREADS = 2


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    num_epochs: int | None = None,
    rows: Sequence[int] | None = None,
    num_threads: int = 2,
    num_workers: int = 0,
    start_step: int = 0,
) -> TrainIterator:
    """Shuffled, augmented batches.

    Epochs are shuffled one by one and then joined, so a batch may hold the end of one and the start of the next, and
    no image is lost.

    Args:
        source: The images.
        batch_size: The size of the global batch, over all processes.
        image_size: (height, width) in pixels.
        preprocessing: Gives the interpolation, and the crop where `augmentation` has none.
        augmentation: What is done to the images at random.
        seed: A number in [0, 2**32) that decides the order and the augmentation.
        num_epochs: Passes over the source, the batch that isn't full at their very end dropped. None never ends.
        rows: The numbers of the rows of each global batch that are wanted, such as those of one process; None for all.
            `vit_jax.sharding.process_rows` and `vit_torch.parallel.process_rows` say which a process holds.
        num_threads: Threads that prepare batches, in each worker; 0, the fastest for tiny images, is the caller's own.
        num_workers: Worker processes; they are spawned, so the script needs an `if __name__ == "__main__"`.
        start_step: Number of batches to leave out at the start; none of them is read.

    Returns:
        A grain `DatasetIterator` of `{"image": uint8 (b, h, w, c), "label": int32 (b,)}` and what
        `parity.data.mix_draws` adds. `get_state()` is small JSON; `set_state()` takes it in any number of processes,
        workers and threads, and the batches that follow are the same, bit for bit. `close()` ends its workers.

    Raises:
        ValueError: If there are more rows than images, or pairs to mix and an odd number of rows, or a number is out of
            range.
    """
    rows = _checked_rows(batch_size, rows, pairs=augmentation.mixes)
    _check_run(seed, num_epochs, num_threads, num_workers)
    if len(source) < batch_size:
        raise ValueError(f"batch_size: got {batch_size}, expected {len(source)} or fewer, the images of {source.name}")
    dataset = require("grain").MapDataset
    transform = _TrainTransform(image_size, preprocessing, augmentation)
    # The random transform comes before the choice of rows: its randomness follows the global position.
    examples = dataset.source(source).seed(seed).shuffle().random_map(transform).repeat(num_epochs)
    batches = dataset.source(_Rows(examples, batch_size, rows)).batch(len(rows), drop_remainder=True)
    mix = Mix(augmentation, seed, image_size, batch_size, rows)
    return require("parity.data.iterator").TrainIterator(
        batches.map_with_index(mix) if augmentation.mixes else batches,
        start_step=start_step,
        num_threads=num_threads,
        num_workers=num_workers,
        run={"seed": seed, "batch_size": batch_size, "num_images": len(source)},
    )


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Every image once, in order, in batches of one static shape.

    There are as many batches whichever rows are wanted, so that collectives match up; rows beyond the last image are
    zeros.

    Args:
        source: The images.
        batch_size: The size of the global batch, over all processes.
        image_size: (height, width) in pixels.
        preprocessing: How to resize and crop.
        rows: The numbers of the rows of each global batch that are wanted, as in `train_batches`; None for all.

    Returns:
        An iterator of `{"image": uint8 (b, h, w, c), "label": int32 (b,), "mask": bool (b,)}`; `mask` is False where a
        row holds no image.

    Raises:
        ValueError: If a number is out of range.
    """
    grain = require("grain")
    batches = _EvalBatches(source, batch_size, image_size, preprocessing, _checked_rows(batch_size, rows))
    options = grain.ReadOptions(num_threads=_EVAL_THREADS, prefetch_buffer_size=2 * _EVAL_THREADS)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


@dataclass(frozen=True)
class _TrainTransform:
    image_size: tuple[int, int]
    preprocessing: Preprocessing
    augmentation: Augmentation

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Batch:
        image = augment_image(
            example["image"],
            rng,
            size=self.image_size,
            augmentation=self.augmentation,
            preprocessing=self.preprocessing,
        )
        return {"image": image, "label": np.asarray(example["label"], np.int32)}


@dataclass(frozen=True)
class _Rows:
    """Some rows of global batch 0, then of global batch 1, ..."""

    examples: Any
    batch_size: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.examples) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        step, place = divmod(index, len(self.rows))
        return self.examples[step * self.batch_size + self.rows[place]]


@dataclass(frozen=True)
class _EvalBatches:
    source: Source
    batch_size: int
    image_size: tuple[int, int]
    preprocessing: Preprocessing
    rows: Sequence[int]

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        numbers = step * self.batch_size + np.asarray(self.rows)
        image = np.zeros((len(numbers), *self.image_size, self.source.in_chans), np.uint8)
        label = np.zeros(len(numbers), np.int32)
        mask = numbers < len(self.source)
        for row in np.flatnonzero(mask):
            example = self.source[int(numbers[row])]
            image[row] = resize_and_crop(example["image"], self.image_size, self.preprocessing)
            label[row] = example["label"]
        return {"image": image, "label": label, "mask": mask}


def _checked_rows(batch_size: int, rows: Sequence[int] | None, *, pairs: bool = False) -> Sequence[int]:
    _check_range("batch_size", batch_size, 1)
    if pairs and batch_size % 2:
        raise ValueError(f"batch_size: got {batch_size}, expected an even number, for images are mixed in pairs")
    if rows is None:
        return range(batch_size)
    if not len(rows):
        raise ValueError("rows: got none, expected at least one row of each batch")
    for bound in (min(rows), max(rows)):
        _check_range("rows", bound, 0, batch_size - 1)
    return rows if isinstance(rows, range) else tuple(int(row) for row in rows)


def _check_run(seed: int, num_epochs: int | None, num_threads: int, num_workers: int) -> None:
    _check_range("seed", seed, 0, 2**32 - 1)
    _check_range("num_epochs", 1 if num_epochs is None else num_epochs, 1)
    _check_range("num_threads", num_threads, 0)
    _check_range("num_workers", num_workers, 0)


def _check_range(name: str, value: int, least: int, greatest: int | None = None) -> None:
    if value < least or (greatest is not None and value > greatest):
        bounds = f"{least} or more" if greatest is None else f"{least} to {greatest}"
        raise ValueError(f"{name}: got {value}, expected {bounds}")
