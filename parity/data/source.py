"""What a source of images is: a random-access sequence that can be pickled, so that workers open their own files."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A split of an image-classification set, as a random-access sequence.

    `source[i]` is `{"image": uint8 (h, w, c), "label": int, "index": i}`; negative indices count from the end.

    Attributes:
        name: The name that `open_source` was given.
        split: The split, such as `train`.
        class_names: One name for each label.
        in_chans: Channels of every image: 1 or 3. An image that is stored with others is converted.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    in_chans: int

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are below it."""
        return len(self.class_names)

    def with_channels(self, in_chans: int) -> Self:
        """The same images for a model of so many input channels: grey ones for 1, RGB for 3.

        Raises:
            ValueError: The number is another one.
        """
        if in_chans not in (1, 3):
            raise ValueError(
                f"in_chans: the model takes {in_chans} channels, and the images of {self.name} can be read as 1 (grey) "
                "or 3 (RGB)"
            )
        return self if in_chans == self.in_chans else dataclasses.replace(self, in_chans=in_chans)

    def check_labels(self, labels: Sequence[str], model: str) -> None:
        """Raises ValueError where a model's head names the same classes in another order.

        Args:
            labels: The head's labels, as far as its file has any; other classes, or other words for them, say nothing.
            model: What the message calls the model.
        """
        theirs, ours = (without_case(names) for names in (labels, self.class_names))
        if theirs == ours or sorted(theirs) != sorted(ours):
            return
        label = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"{model}: label {label} of the head is {labels[label]!r}, and of {self.name} {self.class_names[label]!r}: "
            f"the same classes in another order{self._order_advice(theirs)}"
        )

    def _order_advice(self, labels: list[str]) -> str:
        """What to do to have the labels, without case, in that order, if anything helps."""
        del labels
        return ""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def _read(self, index: int) -> tuple[np.ndarray, int]:
        """The image, uint8 (h, w, in_chans), and the label at an index that lies within the source."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            index = range(len(self))[index]
        except IndexError:
            raise IndexError(f"{self.name} {self.split}: got index {index}, expected one of {len(self)}") from None
        image, label = self._read(index)
        return {"image": image, "label": label, "index": index}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def without_case(names: Iterable[str]) -> list[str]:
    """Names of classes as they are compared."""
    return [name.casefold() for name in names]
