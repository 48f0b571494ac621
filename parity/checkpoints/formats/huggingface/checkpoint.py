"""Reading and writing the directories of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ....configs import Config, Preprocessing, VitConfig, replace
from ....configs.sincos import sincos2d
from ...accounting import CheckpointError
from ...checkpoint import Checkpoint
from ...containers.document import find_json, read_json
from ...containers.files import WRITTEN_BY, Directory, is_by_us, write_directory
from ...containers.overlay import Overlay
from ...containers.tensors import dtypes_of, open_tensors
from ..native import CONFIG
from ..translate import Ours, Pair, Theirs, Unused, pair_up
from .architecture import ANY_PREPROCESSING, Architecture, Json, default_labels, labels_of
from .preprocessing import PROCESSORS, ImageProcessor, from_huggingface, to_huggingface
from .registry import architecture_of, choose

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

T = TypeVar("T")


def is_huggingface(path: Path) -> bool:
    """Whether a directory says that it is one of transformers'."""
    data = find_json(path / CONFIG)
    return "model_type" in data and "format" not in data


TARGET = Directory(
    documents=(CONFIG, PREPROCESSOR), is_ours=lambda path: is_huggingface(path) and is_by_us(path / CONFIG)
)


def read(path: str | Path) -> Checkpoint:
    """Opens a directory of transformers; no tensor is read yet.

    Args:
        path: A directory with `config.json`, tensors, and perhaps `preprocessor_config.json`.

    Returns:
        The checkpoint. Its source has the class (`architecture`), the names of the classes (`labels`) and why tensors
        were left out (`ignored`).

    Raises:
        CheckpointError: Unknown class, unsupported value, or tensors that don't fit; names the file and what is wrong.
    """
    path = Path(path)
    data = read_json(path / CONFIG)
    tensors = open_tensors(path)
    architecture = _checked(path / CONFIG, lambda: architecture_of(data, tensors))
    config = _checked(path / CONFIG, lambda: architecture.config(data))
    processor = _image_processor(path, architecture.model_type)
    images = _checked(path, lambda: _preprocessing(processor, config, architecture.model_type))
    config = _checked(path, lambda: replace(config, preprocessing=images))
    pairs = _as_in_file(pair_up(architecture.entries, config, source=str(path)), architecture.base, tensors)
    optional = f"(?:{re.escape(architecture.base)})?"
    unused = [Unused(f"{optional}(?:{rule.theirs})", rule.reason) for rule in architecture.unused]
    ours = Ours(pairs, tensors, unused=unused, source=str(path))
    source: dict[str, Any] = {
        "format": "huggingface",
        "path": str(path),
        "architecture": architecture.name,
        "model_type": architecture.model_type,
    }
    labels = labels_of(data) if architecture.labels else []
    if labels != default_labels(len(labels)):
        source["labels"] = labels
    if processor is not None and processor.image_size != config.image_size:
        source["input_size"] = list(processor.image_size)
    if ignored := {**tensors.ignored, **ours.ignored}:
        source["ignored"] = ignored
    return Checkpoint(path, config, "", source, ours)


def write(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    *,
    source: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Writes a directory that `from_pretrained` of the chosen class loads strictly, whole or not at all.

    Args:
        path: The directory; an older one of transformers there is replaced.
        config: Of the model.
        tensors: By canonical name.
        source: Where the weights came from: what came from a class of transformers goes back to it where it fits.

    Raises:
        CheckpointError: No class can hold the model, or something else is in the way.
    """
    path, source = Path(path), dict(source or {})
    config, tensors = _without_zero_bias(*_with_stored_positions(config, tensors))
    architecture = choose(config, source, path=str(path))
    data = architecture.data(config)
    if architecture.labels:
        labels = source.get("labels") or []
        labels = labels if len(labels) == config.num_classes else default_labels(config.num_classes)
        data["id2label"] = {str(i): label for i, label in enumerate(labels)}
        data["label2id"] = {label: i for i, label in enumerate(labels)}
    dtype = next(iter(dtypes_of(tensors).values()))
    data["dtype"] = dtype.name
    added = {
        architecture.prefix + name: np.full(shape, value, dtype)
        for name, (shape, value) in architecture.added(config).items()
    }
    theirs = Theirs(pair_up(architecture.entries, config, source=str(path)), tensors, added=added)
    images = _checked(path, lambda: _processor_data(config, architecture, source))
    write_directory(path, TARGET, theirs, {CONFIG: data | WRITTEN_BY, PREPROCESSOR: images})


def _with_stored_positions(
    config: VitConfig, tensors: Mapping[str, np.ndarray]
) -> tuple[VitConfig, Mapping[str, np.ndarray]]:
    """The same model with positions as all classes have them: in a table, with an entry for the class token.

    A fixed table becomes a stored one, and a class token without a position gets one of zeros.
    """
    if config.pos_embed == "none" or (config.pos_embed == "learned" and config.num_pos_embed_prefix):
        return config, tensors
    if config.pos_embed == "learned":
        table = np.asarray(tensors["pos_embed"])
    else:
        big_vision = config.pos_embed == "sincos2d_big_vision"
        dtype = next(iter(dtypes_of(tensors).values()))
        table = sincos2d(config.grid_size, config.embed_dim, big_vision=big_vision)[None].astype(dtype)
    table = np.pad(table, ((0, 0), (int(config.class_token), 0), (0, 0)))
    return replace(config, pos_embed="learned", pos_embed_prefix="class"), Overlay(tensors, {"pos_embed": table})


def _without_zero_bias(
    config: VitConfig, tensors: Mapping[str, np.ndarray]
) -> tuple[VitConfig, Mapping[str, np.ndarray]]:
    """The same model with CLIP's head as it is there: timm gives the projection a bias of zeros."""
    if not (config.pre_norm and config.num_classes and config.head_bias) or np.any(tensors["head.bias"]):
        return config, tensors
    return replace(config, head_bias=False), Overlay(tensors, {"head.bias": None})


def _as_in_file(pairs: Sequence[Pair], base: str, names: Collection[str]) -> list[Pair]:
    """Pairs by the names that the file has: with and without the encoder's prefix, which classes add and leave out."""

    def found(name: str) -> str:
        bare = name.removeprefix(base)
        return next((other for other in (name, bare, base + bare) if other in names), name)

    return [replace(pair, theirs=tuple(found(name) for name in pair.theirs)) for pair in pairs]


def _image_processor(path: Path, model_type: str) -> ImageProcessor | None:
    for name, data in ((PREPROCESSOR, lambda found: found), (PROCESSOR, lambda found: found.get("image_processor"))):
        file = path / name
        if file.is_file() and (found := data(read_json(file))) is not None:
            return _checked(file, lambda: from_huggingface(found, model_type=model_type))
    return None


def _preprocessing(processor: ImageProcessor | None, config: VitConfig, model_type: str) -> Preprocessing:
    """What the file says, or else the default of the class for the type of model."""
    if processor is not None:
        return processor.preprocessing
    if config.in_chans != 3:
        return ANY_PREPROCESSING
    return from_huggingface({}, model_type=model_type).preprocessing


def _processor_data(config: VitConfig, architecture: Architecture, source: Json) -> dict[str, Any]:
    size = source.get("input_size") or config.image_size
    return to_huggingface(
        config.preprocessing,
        (size[0], size[1]),
        processor=PROCESSORS[architecture.model_type],
        patch_size=config.patch_size[0],
    )


def _checked(where: Path, make: Callable[[], T]) -> T:
    """What is made of a file's values; whatever is wrong with them is an error that names the file."""
    try:
        return make()
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {error}") from None
