"""Where images come from: scikit-learn's digits, any TFDS image-classification set, or a folder of image files."""

from __future__ import annotations

import os
from pathlib import Path

from parity.configs.image_folder import FolderOptions
from parity.data.image_folder import open_folder
from parity.data.source import Source
from parity.data.tfds_source import open_tfds


def open_source(
    name: str, split: str, *, data_dir: str | Path | None = None, folder: FolderOptions | None = None
) -> Source:
    """Opens a split of a data set, and prepares the set on its first use.

    Args:
        name: `digits`; the name of a TFDS set (`cifar10`, `imagenet2012:5.1.0`); or the path of a folder that holds
            `<split>/<class>/**/*.{png,jpg,webp,bmp,gif,tif,ppm}`. A relative path needs a slash (`./flowers`), for a
            bare word is a TFDS name.
        split: `train` or `test`; a TFDS set takes slices too (`train[:90%]`); a folder's splits are its subfolders.
        data_dir: Where TFDS sets are kept. By default `$VIT_PARITY_DATA`, or `~/.cache/vit-parity/data`.
        folder: How an image folder is read.

    Returns:
        The images and labels of the split. A folder's images are RGB; `with_channels` of any source makes them grey.

    Raises:
        ValueError: An unknown set or split, a set without images and class labels, or `folder` with a set that is
            none.
        ModuleNotFoundError: If a package of the `data` extra is missing, or the set is not prepared yet and TFDS
            needs TensorFlow for that.
    """
    if _is_path(name):
        return open_folder(name, split, folder or FolderOptions())
    if folder not in (None, FolderOptions()):
        raise ValueError(
            f"folder: got options for image folders, but {name} is a TFDS set, which decodes its own images"
        )
    directory = Path(data_dir) if data_dir is not None else default_data_dir()
    return open_tfds(name, split, directory.expanduser())


def default_data_dir() -> Path:
    """Where TFDS sets are kept unless told otherwise: `$VIT_PARITY_DATA`, or `~/.cache/vit-parity/data`."""
    return Path(os.environ.get("VIT_PARITY_DATA") or "~/.cache/vit-parity/data").expanduser()


def _is_path(name: str) -> bool:
    # "mnist_corrupted/identity" is a TFDS set with a config: a name with a slash is a path only if the folder exists.
    return name.startswith((".", "~")) or Path(name).is_absolute() or ("/" in name and Path(name).is_dir())
