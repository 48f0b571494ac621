"""Any TFDS image-classification set, and the digits: read through `tfds.data_source`, without TensorFlow."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.decode import with_channels
from parity.data.extras import require
from parity.data.source import Source


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
        return with_channels(record["image"], self.in_chans), int(record["label"])


def _reopen(name: str, split: str, class_names: tuple[str, ...], in_chans: int, directory: Path) -> TfdsSource:
    return TfdsSource(name=name, split=split, class_names=class_names, in_chans=in_chans, directory=directory)


def open_tfds(name: str, split: str, data_dir: Path) -> TfdsSource:
    """Opens a split of a TFDS set, or of the digits, and prepares the set on its first use.

    Args:
        name: `digits`, or the name of a TFDS set.
        split: A split, or a slice of one.
        data_dir: Where sets are kept.

    Raises:
        ValueError: An unknown set or split, or a set without images and class labels.
        ModuleNotFoundError: If a package of the `data` extra is missing, or one that prepares the set.
    """
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
        if Path(name).is_dir():
            hint = f"; for the folder of that name write ./{name}"
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
