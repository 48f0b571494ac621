"""Where images come from: scikit-learn's digits, any TFDS image-classification set, or a folder of image files.

All of them are a `Source`: a random-access sequence of `{"image", "label", "index"}`, which can be pickled, so that
worker processes open their own files.
"""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.extras import require

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
# Folders beside a split that must hold the same classes as it.
_SPLIT_NAMES = ("train", "val", "validation", "test")
# Pillow's `convert("RGB")` clips these to 255 without a word.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A split of an image-classification set, as a random-access sequence.

    `source[i]` is `{"image": uint8 (h, w, c), "label": int, "index": i}`; negative indices count from the end.

    Attributes:
        name: The name that `open_source` was given.
        split: The split, such as `train`.
        class_names: One name for each label.
        in_chans: Channels of every image: 1 or 3.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    in_chans: int

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are below it."""
        return len(self.class_names)

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def _read(self, index: int) -> tuple[np.ndarray, int]:
        """The image, uint8 (h, w, c), and the label at an index that lies within the source."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            index = range(len(self))[index]
        except IndexError:
            raise IndexError(f"{self.name} {self.split}: got index {index}, expected one of {len(self)}") from None
        image, label = self._read(index)
        return {"image": image, "label": label, "index": index}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def open_source(name: str, split: str, *, data_dir: str | Path | None = None) -> Source:
    """Opens a split of a data set, and prepares the set on its first use.

    Args:
        name: `digits`; the name of a TFDS set (`cifar10`, `imagenet2012:5.1.0`); or the path of a folder that holds
            `<split>/<class>/**/*.{png,jpg,jpeg,webp,bmp}`. A relative path needs a slash (`./flowers`), for a bare
            word is a TFDS name.
        split: `train` or `test`; a TFDS set takes slices too (`train[:90%]`); a folder's splits are its subfolders.
        data_dir: Where TFDS sets are kept. By default `$VIT_PARITY_DATA`, or `~/.cache/vit-parity/data`.

    Returns:
        The images and labels of the split.

    Raises:
        ValueError: For an unknown set or split, or a set without images and class labels.
        ModuleNotFoundError: If a package of the `data` extra is missing, or the set is not prepared yet and TFDS
            needs TensorFlow for that.
    """
    if _is_path(name):
        return _open_folder(name, split)
    directory = Path(data_dir) if data_dir is not None else default_data_dir()
    return _open_tfds(name, split, directory.expanduser())


def default_data_dir() -> Path:
    """Where TFDS sets are kept unless told otherwise: `$VIT_PARITY_DATA`, or `~/.cache/vit-parity/data`."""
    return Path(os.environ.get("VIT_PARITY_DATA") or "~/.cache/vit-parity/data").expanduser()


def _is_path(name: str) -> bool:
    # "mnist_corrupted/identity" is a TFDS set with a config: a name with a slash is a path only if the folder exists.
    return name.startswith((".", "~")) or Path(name).is_absolute() or ("/" in name and Path(name).is_dir())


# --- TFDS ---


@dataclass(frozen=True, kw_only=True)
class TfdsSource(Source):
    """A split of a prepared TFDS set; it is read from its directory, without the code that built it.

    Attributes:
        directory: `<data_dir>/<set>/<version>`.
    """

    directory: Path

    def __post_init__(self) -> None:
        """Opens the files."""
        builder = require("tensorflow_datasets").builder_from_directory(self.directory)
        object.__setattr__(self, "_records", builder.as_data_source(split=self.split))

    def __reduce__(self) -> tuple[Any, ...]:
        # Open readers can't be pickled: a copy opens its own.
        fields = (self.name, self.split, self.class_names, self.in_chans, self.directory)
        return _reopen, fields

    def __len__(self) -> int:
        return len(self._records)  # pyright: ignore[reportAttributeAccessIssue]

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        record = self._records[index]  # pyright: ignore[reportAttributeAccessIssue]
        return record["image"], int(record["label"])


def _reopen(name: str, split: str, class_names: tuple[str, ...], in_chans: int, directory: Path) -> TfdsSource:
    return TfdsSource(name=name, split=split, class_names=class_names, in_chans=in_chans, directory=directory)


def _open_tfds(name: str, split: str, data_dir: Path) -> TfdsSource:
    builder = _builder(name, data_dir)
    class_names, in_chans = _check_features(name, builder.info.features)
    _prepare(name, builder)
    known = sorted(builder.info.splits)
    base = split.partition("[")[0].partition("+")[0]
    if base not in (*known, "all"):
        raise ValueError(f"{name}: got split {split!r}, expected one of {known} or a slice of one")
    try:
        return TfdsSource(
            name=name, split=split, class_names=class_names, in_chans=in_chans, directory=Path(builder.data_dir)
        )
    except NotImplementedError as error:
        raise ValueError(
            f"{name}: {builder.data_dir} is prepared in {builder.info.file_format}, expected array_record; "
            "choose another data_dir, or delete it to have it prepared again"
        ) from error


def _builder(name: str, data_dir: Path) -> Any:
    tfds = require("tensorflow_datasets")
    if name == "digits":
        return require("parity.data.digits").SklearnDigits(data_dir=data_dir)
    # TFDS would ask the network about an unknown name, so it is looked up here first. A set that somebody prepared in
    # data_dir needs no code and may be unknown to TFDS.
    base = name.partition("/")[0].partition(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known and not (data_dir / base).is_dir():
        close = difflib.get_close_matches(base, ["digits", *known], n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"data set: got {name!r}, expected 'digits', a TFDS name or the path of a folder{hint}")
    try:
        with _explained(name, data_dir):
            return tfds.builder(name, data_dir=data_dir)
    except (AssertionError, tfds.core.DatasetNotFoundError) as error:  # a version or a config that isn't there
        raise ValueError(f"data set: got {name!r}, which TFDS can't open: {error}") from error


@contextmanager
def _explained(name: str, data_dir: Path) -> Iterator[None]:
    """Says why a package is missing: most TFDS sets are prepared with TensorFlow, though read without it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} isn't prepared in {data_dir}, and TFDS needs another package for it, here or on a machine from "
            f"where you then copy the directory (reading a prepared set needs no more packages): {error}",
            name=error.name,
        ) from error


def _check_features(name: str, features: Any) -> tuple[tuple[str, ...], int]:
    tfds = require("tensorflow_datasets")
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(key in features and isinstance(features[key], kind) for key, kind in kinds.items()):
        raise ValueError(f"{name}: got features {sorted(features)}, expected an Image 'image' and a ClassLabel 'label'")
    image, label = features["image"], features["label"]
    in_chans = image.shape[-1]
    if in_chans not in (1, 3) or image.np_dtype != np.uint8:
        raise ValueError(f"{name}: got images {image.shape} {image.np_dtype}, expected uint8 with 1 or 3 channels")
    return tuple(label.names), in_chans


def _prepare(name: str, builder: Any) -> None:
    """Downloads and writes the set, unless that is done."""
    if builder.is_prepared():
        return
    tfds = require("tensorflow_datasets")
    # Google's bucket holds TFRecord only, and TFDS would ask for it first.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with _explained(name, builder.data_dir_root):
            builder.download_and_prepare(file_format="array_record", download_config=config)
    except OSError:
        # TFDS writes beside the target and renames; the rename fails if another process finished first, which is fine.
        if not builder.is_prepared():
            raise
        builder.info.read_from_directory(builder.data_dir)


# --- image folders ---


@dataclass(frozen=True, kw_only=True)
class FolderSource(Source):
    """A folder of image files, one subfolder for each class; images are RGB.

    Attributes:
        files: Every image, sorted by class and then by path.
        labels: Their labels.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        return _decode(self.files[index]), self.labels[index]


def _open_folder(name: str, split: str) -> FolderSource:
    root = Path(name).expanduser()
    if not root.is_dir():
        raise ValueError(f"image folder: got {name!r}, expected an existing folder")
    splits = _subfolders(root)
    if split not in splits:
        raise ValueError(f"image folder {name}: got split {split!r}, expected one of its subfolders {splits}")
    classes = _subfolders(root / split)
    for other in set(_SPLIT_NAMES) & set(splits) - {split}:
        difference = sorted(set(classes) ^ set(_subfolders(root / other)))
        if difference:
            raise ValueError(f"image folder {name}: {split} and {other} differ in their classes: {difference}")
    found = [
        (path, label)
        for label, class_name in enumerate(classes)
        for path in sorted((root / split / class_name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise ValueError(f"image folder {root / split}: got no image, expected <class>/*{sorted(IMAGE_SUFFIXES)}")
    files, labels = zip(*found, strict=True)
    return FolderSource(name=name, split=split, class_names=classes, in_chans=3, files=files, labels=labels)


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _decode(path: Path) -> np.ndarray:
    """Decodes a file to RGB, uint8 (h, w, 3); as torchvision does, it leaves EXIF orientation alone."""
    pil = require("PIL.Image")
    try:
        with pil.open(path) as image:
            if image.mode in _DEEP_MODES:
                raise ValueError(f"got pixels of mode {image.mode}, expected 8 bits for each channel")
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error and more
        raise ValueError(f"{path}: can't be read as an image: {error}") from error
