"""Microsoft's own files of Swin and Swin V2, and what its repository can load.

A file shows neither the image size nor the preprocessing, which is that of the repository's evaluation: bicubic,
resized to 8/7 of the crop, and above 256 pixels uncropped. Swin V2's windows are seen by the indices that are beside
the tensors. What is written here has what the tensors don't show in `microsoft.json`.

Source: microsoft/Swin-Transformer `models/swin_transformer.py`, `models/swin_transformer_v2.py`, `data/build.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, Preprocessing
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.swin import SwinConfig
from ..assumed import Given
from ..checkpoint import Checkpoint
from ..containers.document import find_json
from ..containers.files import Directory, write_directory
from . import swin_documents, swin_names
from .foreign import read_document
from .opened import Opened
from .translate import Theirs, fill

DOCUMENT = "microsoft.json"
# The families that have names here.
HOLDS: tuple[type[Config], ...] = (SwinConfig,)
TARGET = Directory(documents=(DOCUMENT,), is_ours=lambda path: find_json(path / DOCUMENT).get("format") == "microsoft")
_CODE = dict(window_fit="shrink_both", shift_mask=-100.0, act="gelu", norm_eps=1e-5)


def is_microsoft(names: Iterable[str]) -> bool:
    """Whether names of a file are those of Microsoft's Swins: the first stage ends with a merging."""
    return any(name.startswith("layers.0.downsample.") for name in names)


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens an original file, or a directory that was written here; no tensor is read.

    Args:
        opened: The file or directory.
        given: What the user says.

    Raises:
        CheckpointError: No Swin Transformer, or tensors that don't fit.
    """
    path, weights = opened.path, opened.weights("microsoft")
    return swin_documents.read(
        weights,
        given,
        read_document(path, DOCUMENT, "config"),
        table=swin_names.microsoft(),
        known=_CODE | ({} if given.says("rel_pos_resize") else {"rel_pos_resize": "bicubic"}),
        usual=_usual,
        path=path,
        format="microsoft",
    )


def write(path: str | Path, config: SwinConfig, tensors: Mapping[str, np.ndarray], **_: Any) -> None:
    """Writes `model.safetensors` with the repository's names, and `microsoft.json`, whole or not at all.

    Its `load_pretrained` makes the buffers itself: `model.load_state_dict(tensors, strict=False)`.

    Args:
        path: The directory; an older one is replaced.
        config: The config of the model.
        tensors: The tensors by canonical name.

    Raises:
        CheckpointError: A config that the repository's code can't express; names the fields.
    """
    path = Path(path)
    same = dict(window_sizes=config.window_sizes[:1] * config.num_stages)
    swin_documents.check_expressed(config, _CODE | same, path=path, format="microsoft")
    theirs = Theirs(fill(swin_names.microsoft(), config, source=str(path)), tensors)
    write_directory(path, TARGET, theirs, {DOCUMENT: {"format": "microsoft"} | swin_documents.kept(config)})


def _usual(config: SwinConfig) -> tuple[Preprocessing, str]:
    crop: dict[str, Any] = dict(crop_pct=0.875) if config.image_size[0] <= 256 else dict(crop_pct=1.0)
    images = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", **crop)
    return images, "that of Microsoft's evaluation"
