"""What a run reads: the model's config for its data, training batches, test batches; the same in both frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data import Source, eval_batches, open_source, train_batches
from ..data.image_folder import class_difference
from ..data.loader import Batch
from ..recipes import Recipe
from .frozen import check_frozen, open_frozen
from .start import begin


class Inputs:
    """The data of a run, for one of its processes.

    Args:
        recipe: The recipe of the run.
        data_dir: Where TFDS sets are kept.
        directory: The directory of the run, as `begin` takes it.
        rows: The rows of each global batch that this process holds; None for all.
        is_first: Whether this is the process that writes.

    Attributes:
        start: Where the run starts.
        config: The config of the model, with the classes of the data.
        frozen: The checkpoints of the models that help and never change, by the objective's names.

    Raises:
        ValueError: The data doesn't fit the model, or isn't there; or as `begin`.
    """

    def __init__(
        self,
        recipe: Recipe,
        data_dir: str | Path | None = None,
        *,
        directory: Path | None = None,
        rows: Sequence[int] | None = None,
        is_first: bool = True,
    ):
        self._recipe = recipe
        data = recipe.data
        sources = [
            open_source(data.name, split, data_dir=data_dir, folder=data.folder)
            for split in (data.train_split, data.test_split)
        ]
        _check_classes(*sources)
        self.start = begin(recipe, sources[0], directory, is_first=is_first)
        self.config = self.start.config
        self.frozen = open_frozen(recipe)
        check_frozen(self.frozen, self.config, sources[0])
        self._train, self._test = (source.with_channels(self.config.in_chans) for source in sources)
        self._rows = rows

    def train_batches(self) -> Any:
        """The iterator of `parity.data.train_batches`, to be closed."""
        data = self._recipe.data
        return train_batches(
            self._train,
            batch_size=self._recipe.batch_size,
            image_size=self.config.image_size,
            preprocessing=self.config.preprocessing,
            augmentation=data.augmentation,
            seed=self._recipe.seed,
            num_threads=data.num_threads,
            num_workers=data.num_workers,
            rows=self._rows,
        )

    def test_batches(self) -> Iterator[Batch]:
        """Every test image once."""
        return eval_batches(
            self._test,
            batch_size=self._recipe.batch_size,
            image_size=self.config.image_size,
            preprocessing=self.config.preprocessing,
            rows=self._rows,
        )


def due(step: int, every: int, steps: int) -> bool:
    """Whether something that is done every few steps, and after the last one, is done after this step."""
    return step == steps or (every > 0 and step % every == 0)


def _check_classes(train: Source, test: Source) -> None:
    if train.class_names != test.class_names:
        difference = class_difference(train.split, train.class_names, test.split, test.class_names)
        raise ValueError(f"{train.name}: {difference}")
