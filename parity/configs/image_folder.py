"""How a folder of image files is read, where there are two ways that people do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ClassOrder = Literal["sorted", "natural"]


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """What the files of an image folder don't say.

    Attributes:
        exif_orientation: Whether photographs are turned upright as their EXIF orientation says. torchvision and timm
            leave them as they are stored, and so does the default.
        class_order: How class folders are numbered: `sorted` by the names' characters (torchvision: 1, 10, 2; B, a), or
            in `natural` order, by their numbers and without case (timm: 1, 2, 10; a, B). None is `sorted`, with a
            warning where the two differ.
    """

    exif_orientation: bool = False
    class_order: ClassOrder | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        if self.class_order not in (None, *get_args(ClassOrder)):
            expected = ", ".join(get_args(ClassOrder))
            raise ValueError(f"class_order: got {self.class_order!r}, expected one of {expected}, or none")
