"""The files of open_clip: weights under several names, and the document beside them that says which model they are.

    hub repository        open_clip_config.json, open_clip_model.safetensors (or an older name)
    a run of its training params.txt, checkpoints/epoch_1.pt, ..., checkpoints/epoch_latest.pt

The document holds for a directory and for each file in it. What `params.txt` says is the command line of the training:
the model's name in open_clip, whether OpenAI's GELU was forced, image size and normalisation. The `name` inside a
checkpoint of training is the run's, which anybody chooses; nothing follows from it.

Source: open_clip `factory.py` (`_find_checkpoint_in_dir`), `open_clip_train/main.py`, `params.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..accounting import CheckpointError, cut
from ..assumed import Assumption
from ..containers.document import read_json
from .open_clip_config import preprocessing
from .open_clip_models import model_cfg

DOCUMENT = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
_PARAMS = "params.txt"
_CHECKPOINTS = "checkpoints"
# In the order in which open_clip looks for them.
_USUAL = (WEIGHTS, *(f"open_clip_pytorch_model.{suffix}" for suffix in ("safetensors", "bin", "pth")))
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_MAX_BYTES = 2**20
_IMAGES = {
    "mean": "image_mean",
    "std": "image_std",
    "interpolation": "image_interpolation",
    "resize_mode": "image_resize_mode",
}


@dataclass(frozen=True)
class Document:
    """What stands beside the weights.

    Attributes:
        file: The file that it stands in.
        data: Its values, as `open_clip_config.json` has them.
        assumed: What it leaves open.
    """

    file: Path
    data: Mapping[str, Any]
    assumed: tuple[Assumption, ...] = ()


def is_open_clip(path: Path) -> bool:
    """Whether a directory is one of open_clip's: of its hub repositories, or a run of its training, of any model."""
    return find_document(path) is not None or ((path / _PARAMS).is_file() and (path / _CHECKPOINTS).is_dir())


def find_document(path: Path) -> Document | None:
    """The document of a directory or of a file of weights in it, if there is one that says the model.

    Raises:
        CheckpointError: It is no sound JSON.
    """
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder.parent) if folder.name == _CHECKPOINTS else (folder,):
        if (file := place / DOCUMENT).is_file():
            return Document(file, read_json(file))
        if (file := place / _PARAMS).is_file() and (document := _of_training(file)) is not None:
            return document
    return None


def weights_file(path: Path) -> Path:
    """The file of weights in a directory, by open_clip's names for it, or the only one that there is.

    Raises:
        CheckpointError: There are several; names them.
    """
    if not path.is_dir():
        return path
    usual = [path / name for name in _USUAL if (path / name).is_file()]
    folders = [folder for folder in (path, path / _CHECKPOINTS) if folder.is_dir()]
    found = usual[:1] or sorted(
        file for folder in folders for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file()
    )
    if len(found) > 1:
        names = cut([str(file.relative_to(path)) for file in found])
        raise CheckpointError(f"{path}: {len(found)} files of weights: {names}; open one of them, such as {found[-1]}")
    return found[0] if found else path / WEIGHTS


def _of_training(file: Path) -> Document | None:
    """What the arguments of a training say of its model; None if they leave the model open."""
    with file.open("rb") as opened:
        text = opened.read(_MAX_BYTES).decode(errors="replace")
    arguments = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    model = model_cfg(arguments.get("model", ""))
    quick = arguments.get("force_quick_gelu") == "True"
    # OpenAI's weights under a name without `-quickgelu` had QuickGELU in open_clip 2, and have GELU in open_clip 3.
    if model is None or (arguments.get("pretrained") == "openai" and not quick and "quick_gelu" not in model):
        return None
    if quick:
        model["quick_gelu"] = True
    if (size := _value(arguments, "force_image_size")) is not None:
        model["vision_cfg"]["image_size"] = size
    images = {ours: value for ours, name in _IMAGES.items() if (value := _value(arguments, name)) is not None}
    data = {"model_cfg": model, "preprocess_cfg": images}
    if arguments.get("pretrained", "") in ("", "openai") or "mean" in images:
        return Document(file, data)
    why = f"open_clip's default; the weights that the training began with ({arguments['pretrained']}) may have others"
    return Document(file, data, (Assumption("preprocessing", preprocessing(images), why),))


def _value(arguments: Mapping[str, str], name: str) -> Any:
    """An argument as Python printed it; a word is itself."""
    text = arguments.get(name, "None")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
