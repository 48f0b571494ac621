"""Reading and writing the directories of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ....configs import Config, Preprocessing, VitConfig, replace
from ....configs.mobilevit import MobileVitConfig
from ....configs.pvt import PvtConfig
from ....configs.sincos import sincos2d
from ....configs.swin import SwinConfig
from ...accounting import CheckpointError
from ...assumed import Given
from ...checkpoint import Checkpoint
from ...containers.document import find_json, read_json
from ...containers.files import WRITTEN_BY, Directory, is_by_us, write_directory
from ...containers.overlay import Overlay
from ...containers.tensors import dtypes_of
from ..foreign import checkpoint_of
from ..native import CONFIG
from ..opened import Opened
from ..settled import fits, images_of
from ..translate import FilledEntry, Theirs, Unused, fill
from ..weights import choose as choose_weights
from .architecture import Architecture, Json, default_labels, labels_of
from .flax import as_torch
from .image_processor import PROCESSORS, ImageProcessor, from_huggingface, to_huggingface
from .lone import implied, settled_pooling, with_asked, with_class, with_classes
from .registry import architecture_of, choose

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

T = TypeVar("T")


def is_huggingface(path: Path) -> bool:
    """Whether a directory says that it is one of transformers'."""
    data = find_json(path / CONFIG)
    return "model_type" in data and "format" not in data


# The families that have names here.
HOLDS: tuple[type[Config], ...] = (VitConfig, SwinConfig, PvtConfig, MobileVitConfig)
TARGET = Directory(
    documents=(CONFIG, PREPROCESSOR), is_ours=lambda path: is_huggingface(path) and is_by_us(path / CONFIG)
)


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens what transformers saved; no tensor is read yet.

    Args:
        opened: A directory with `config.json`, tensors, and perhaps `preprocessor_config.json`; or tensors alone, whose
            names and shapes then say what `config.json` would, as far as they can. Tensors may have the names that they
            have in memory, or be Flax's.
        given: What the user says of them.

    Returns:
        The checkpoint. Its source has the class (`architecture`), the names of the classes (`labels`) and why tensors
        were left out (`ignored`).

    Raises:
        CheckpointError: Unknown class, unsupported value, or tensors that don't fit; names the file and what is wrong.
    """
    path = opened.path
    folder = path if path.is_dir() else path.parent
    weights = choose_weights(
        as_torch(opened.tensors()), format="huggingface", prefix=opened.prefix, ignore=opened.ignore
    )
    document = folder / CONFIG
    if document.is_file() and (path.is_dir() or is_huggingface(folder)):
        data, where = with_class(read_json(document), weights), document
        architecture = _checked(where, lambda: architecture_of(data, weights.tensors))
        data = _checked(where, lambda: with_classes(data, architecture, weights.shapes, given))
        said = {
            setting.ours: given.take(setting.ours) for setting in architecture.settings if setting.ours in given.fields
        }
        data = architecture.with_said(data, said)
    else:
        data, where = implied(weights, given, path=path), path
        architecture = _checked(where, lambda: architecture_of(data, weights.tensors))
    config = _checked(where, lambda: architecture.config(data))
    config = _checked(where, lambda: with_asked(config, architecture, weights.tensors, given))
    if where == path:
        config = _checked(where, lambda: settled_pooling(config, architecture, weights, given))
    processor = _image_processor(folder, architecture.model_type)
    images = _checked(path, lambda: _preprocessing(processor, config, architecture.model_type, given))
    config = _checked(path, lambda: replace(config, preprocessing=images))
    checkpoint = checkpoint_of(
        weights,
        given,
        config,
        _filled(architecture, config, weights.tensors, source=str(path)),
        path=path,
        unused=_unused(architecture),
        name=fits(given.name, config),
        format="huggingface",
    )
    labels = labels_of(data) if architecture.labels else []
    source = checkpoint.source | {"architecture": architecture.name, "model_type": architecture.model_type}
    if labels != default_labels(len(labels)):
        source["labels"] = labels
    if processor is not None and processor.image_size != config.image_size:
        source["input_size"] = list(processor.image_size)
    return replace(checkpoint, source=source)


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
        config: The config of the model.
        tensors: The tensors by canonical name.
        source: Where the weights came from: what came from a class of transformers goes back to it where it fits.

    Raises:
        CheckpointError: No class can hold the model, or something else is in the way.
    """
    path, source = Path(path), dict(source or {})
    if isinstance(config, VitConfig):
        with_positions, tensors = _with_stored_positions(config, tensors)
        config, tensors = _without_zero_bias(with_positions, tensors)
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
        architecture.prefix + name: np.full(shape, value, np.int64 if isinstance(value, int) else dtype)
        for name, (shape, value) in architecture.added(config).items()
    }
    theirs = Theirs(fill(architecture.entries, config, source=str(path)), tensors, added=added)
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


def _filled(architecture: Architecture, config: Config, names: Collection[str], *, source: str) -> list[FilledEntry]:
    """Where each tensor is, by the spelling of which the file has most."""
    spelled = [
        _as_in_file(fill(table, config, source=source), architecture.base, names) for table in architecture.spellings
    ]
    return min(spelled, key=lambda filled: sum(name not in names for entry in filled for name in entry.theirs))


def _as_in_file(filled: Sequence[FilledEntry], base: str, names: Collection[str]) -> list[FilledEntry]:
    """Pairs by the names that the file has: with and without the encoder's prefix, which classes add and leave out."""

    def found(name: str) -> str:
        bare = name.removeprefix(base)
        return next((other for other in (name, bare, base + bare) if other in names), name)

    return [replace(entry, theirs=tuple(found(name) for name in entry.theirs)) for entry in filled]


def _unused(architecture: Architecture) -> list[Unused]:
    optional = f"(?:{re.escape(architecture.base)})?"
    return [Unused(f"{optional}(?:{rule.theirs})", rule.reason) for rule in architecture.unused]


def _image_processor(path: Path, model_type: str) -> ImageProcessor | None:
    for name, data in ((PREPROCESSOR, lambda found: found), (PROCESSOR, lambda found: found.get("image_processor"))):
        file = path / name
        if file.is_file() and (found := data(read_json(file))) is not None:
            return _checked(file, lambda: from_huggingface(found, model_type=model_type))
    return None


def _preprocessing(processor: ImageProcessor | None, config: Config, model_type: str, given: Given) -> Preprocessing:
    """What the file says, or else the default of the class for the type of model."""
    usual = from_huggingface({}, model_type=model_type).preprocessing
    why = f"the default of {PROCESSORS[model_type]}ImageProcessor, for there is no {PREPROCESSOR}"
    return images_of(given, config.in_chans, known=processor and processor.preprocessing, usual=usual, why=why)


def _processor_data(config: Config, architecture: Architecture, source: Json) -> dict[str, Any]:
    size = source.get("input_size") or config.image_size
    return to_huggingface(
        config.preprocessing,
        (size[0], size[1]),
        processor=PROCESSORS[architecture.model_type],
        patch_size=config.patch_size[0] if isinstance(config, VitConfig) else 0,
    )


def _checked(where: Path, make: Callable[[], T]) -> T:
    """What is made of a file's values; whatever is wrong with them is an error that names the file."""
    try:
        return make()
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {error}") from None
