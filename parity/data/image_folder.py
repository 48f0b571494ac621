"""A folder of image files: `<root>/<split>/<class>/**/<image>`, labels by class folder.

Nothing in it is passed over in silence: what isn't read as an image is counted and named by a warning, one line for
each split. Subfolders of a class, links too, belong to the class, as in torchvision; in timm they would be classes.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from parity.configs.image_folder import ClassOrder, FolderOptions
from parity.data.decode import IMAGE_SUFFIXES, ImageWarning, decode
from parity.data.source import Source, without_case

# Folders beside a split that must hold the same classes as it.
_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test")
# What systems leave behind without a dot: Windows, macOS' zip files, Synology.
_LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
_SHOWN = 3
_KINDS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class FolderSource(Source):
    """A folder of image files, one subfolder for each class.

    Attributes:
        files: Every image, sorted by class and then by path.
        labels: Their labels.
        exif_orientation: Whether images are turned upright as their EXIF orientation says.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    exif_orientation: bool = False

    def _order_advice(self, labels: list[str]) -> str:
        for order in get_args(ClassOrder):
            if labels == without_case(_in_order(self.class_names, order)):
                return f"; class_order {order!r} has that one"
        return "; the class folders must be named so that they sort as the head has them"

    def __len__(self) -> int:
        return len(self.files)

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        image = decode(self.files[index], self.in_chans, exif_orientation=self.exif_orientation)
        return image, self.labels[index]


def open_folder(name: str, split: str, options: FolderOptions) -> FolderSource:
    """Opens a split of an image folder; reads names only, no file.

    Args:
        name: Path of the folder that holds the splits.
        split: One of its subfolders.
        options: How it is read.

    Returns:
        Its images, as RGB.

    Raises:
        ValueError: No such folder, split or image; or classes that differ from those of another split.
    """
    root = Path(name).expanduser()
    if not root.is_dir():
        raise ValueError(f"image folder: got {name!r}, expected an existing folder")
    try:
        return _open(name, root, split, options)
    except OSError as error:
        raise ValueError(f"image folder {name}: {error.filename} can't be read: {error.strerror}") from error


def _open(name: str, root: Path, split: str, options: FolderOptions) -> FolderSource:
    splits = _subfolders(root)
    if split not in splits:
        expected = f"one of its subfolders {_cut(splits)}{_hint(root, splits)}"
        raise ValueError(f"image folder {name}: got split {split!r}, expected {expected}")
    classes = _labelled(name, _subfolders(root / split), options)
    _check_splits(name, root, split, splits, classes)
    content = _Content(root / split)
    labels = [label for label, class_name in enumerate(classes) for _ in range(content.scan(class_name))]
    content.say(len(classes))
    return FolderSource(
        name=name,
        split=split,
        class_names=classes,
        in_chans=3,
        files=tuple(content.images),
        labels=tuple(labels),
        exif_orientation=options.exif_orientation,
    )


@dataclass
class _Content:
    """What lies in a split: images, and by kind what is none."""

    root: Path
    images: list[Path] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    misnamed: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for entry in _entries(self.root):
            if _is_litter(entry.name):
                self._leave("hidden or a system's", entry.path)
            elif not entry.is_dir():
                self._leave("outside the class folders", entry.path)

    def scan(self, class_name: str) -> int:
        """Adds the images of a class folder and returns how many they are."""
        before = len(self.images)
        self._scan(self.root / class_name, ())
        found = len(self.images) - before
        if not found:
            self.empty.append(class_name)
        return found

    def _scan(self, folder: Path, above: tuple[str, ...]) -> None:
        inside = (*above, os.path.realpath(folder))
        for entry in _entries(folder):
            suffix = Path(entry.name).suffix.lower()
            if _is_litter(entry.name):
                self._leave("hidden or a system's", entry.path)
            elif entry.is_dir():
                if os.path.realpath(entry.path) in inside:
                    self._leave("links to a folder above", entry.path)
                    continue
                if suffix in IMAGE_SUFFIXES:
                    self.misnamed.append(os.path.relpath(entry.path, self.root))
                self._scan(Path(entry.path), inside)
            elif not entry.is_file():
                self._leave("links to nothing" if entry.is_symlink() else "pipes and the like", entry.path)
            elif suffix in IMAGE_SUFFIXES:
                self.images.append(Path(entry.path))
            else:
                self._leave(suffix or "without a suffix", entry.path)

    def _leave(self, kind: str, path: str) -> None:
        self.others.setdefault(kind, []).append(os.path.relpath(path, self.root))

    def say(self, num_classes: int) -> None:
        """Warns of what isn't read.

        Raises:
            ValueError: There is no image.
        """
        kinds = sorted(self.others.items(), key=lambda item: -len(item[1]))
        left = "; ".join(_counted(kind, names) for kind, names in kinds[:_KINDS_SHOWN])
        if len(kinds) > _KINDS_SHOWN:
            left += f"; of other kinds: {sum(len(names) for _, names in kinds[_KINDS_SHOWN:])}"
        parts = [f"not read: {left}"] if left else []
        if self.misnamed:
            parts.append(_counted("folders named like an image", self.misnamed))
        if not self.images:
            expected = " ".join(sorted(IMAGE_SUFFIXES))
            found = "; ".join([f"got no image in {num_classes} class folders", *parts])
            raise ValueError(f"image folder {self.root}: {found}; expected <class>/* with {expected}")
        if self.empty:
            parts.append(_counted("classes without an image", self.empty))
        if parts:
            _warn(f"image folder {self.root}: {len(self.images)} images; {'; '.join(parts)}")


def _labelled(name: str, classes: tuple[str, ...], options: FolderOptions) -> tuple[str, ...]:
    """Class folders, sorted before, in the order of their labels."""
    natural = _in_order(classes, "natural")
    if options.class_order is None and natural != classes:
        at = next(i for i, pair in enumerate(zip(classes, natural, strict=True)) if pair[0] != pair[1])
        _warn(
            f"image folder {name}: label {at} is taken for {classes[at]!r}, as torchvision sorts class folders; timm's "
            f"is {natural[at]!r}; class_order 'natural' (timm) or 'sorted' ends this warning"
        )
    return natural if options.class_order == "natural" else classes


def _in_order(classes: Iterable[str], order: ClassOrder) -> tuple[str, ...]:
    """Names of class folders in the order of their labels."""
    return tuple(sorted(classes, key=_natural_key if order == "natural" else None))


def _natural_key(name: str) -> list[str | int]:
    """As `timm.utils.natural_key`: texts and numbers take turns."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def _check_splits(name: str, root: Path, split: str, splits: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Raises ValueError where labels of another split would mean other classes; one without class folders has none."""
    for other in sorted(set(_SPLIT_NAMES) & set(splits) - {split}):
        others = _subfolders(root / other)
        if others and set(others) != set(classes):
            raise ValueError(f"image folder {name}: {class_difference(split, classes, other, others)}")


def class_difference(split: str, classes: Iterable[str], other: str, others: Iterable[str]) -> str:
    """Why two splits can't be used together: a phrase that names the classes that only one of them has."""
    only = {split: sorted(set(classes) - set(others)), other: sorted(set(others) - set(classes))}
    parts = [f"only {where} has {_cut(names)}" for where, names in only.items() if names]
    return (
        f"{split} and {other} differ in their classes: {'; '.join(parts)}. Labels count the class folders, so all "
        "splits need the same ones; an empty folder will do"
    )


def _hint(root: Path, subfolders: tuple[str, ...]) -> str:
    """What to write instead where a split was given as the folder of splits."""
    if not any(
        Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for sub in subfolders for entry in _entries(root / sub)
    ):
        return ""
    whole = root.resolve()
    return f"; if these are classes, the data is {whole.parent} and {whole.name!r} its split"


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in _entries(folder) if entry.is_dir() and not _is_litter(entry.name))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _cut(names: Iterable[str]) -> str:
    """The first names, in one line, and how many more there are."""
    names = [name if name.isprintable() else repr(name) for name in names]
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def _counted(kind: str, names: Sequence[str]) -> str:
    return f"{kind}: {len(names)} ({_cut(names)})"


def _warn(text: str) -> None:
    warnings.warn(text, ImageWarning, stacklevel=2)
