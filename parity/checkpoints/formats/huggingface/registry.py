"""All classes of transformers that are read and written, and which of them a file or a config is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ....configs import Config, VitConfig, close_match, replace
from ....configs.swin import SwinConfig
from ...accounting import CheckpointError
from ..foreign import essence
from . import beit, clip, dino, mobilevit, pvt, resnet, swin, vit
from .architecture import Architecture, Json

ARCHITECTURES: tuple[Architecture, ...] = (
    *vit.ARCHITECTURES,
    *beit.ARCHITECTURES,
    *dino.ARCHITECTURES,
    *clip.ARCHITECTURES,
    *swin.ARCHITECTURES,
    *pvt.ARCHITECTURES,
    *mobilevit.ARCHITECTURES,
    *resnet.ARCHITECTURES,
)
MODEL_TYPES = tuple(dict.fromkeys(architecture.model_type for architecture in ARCHITECTURES))

# `config.json` can't say it, and at the model's own image size it changes nothing.
_FREE = ("dynamic_image_size",)


def architecture_of(data: Json, names: Collection[str]) -> Architecture:
    """The class of a file.

    Args:
        data: The object of its `config.json`.
        names: The names of its tensors.

    Raises:
        ValueError: A class or a model type that isn't known, or none at all.
    """
    model_type, listed = data.get("model_type"), data.get("architectures")
    if listed:
        field, name, known = "architectures", listed[0], {kind.name: kind.model_type for kind in ARCHITECTURES}
        variants = [kind for kind in ARCHITECTURES if kind.name == name]
    else:
        field, name, known = "model_type", model_type, dict.fromkeys(MODEL_TYPES, "")
        variants = [kind for kind in ARCHITECTURES if kind.model_type == name and kind.name.endswith("Model")]
    if not variants:
        near = [kind for kind in known if known[kind] == model_type] or list(known)
        raise ValueError(f"{field}: got {name!r}, expected one of {', '.join(near)}{close_match(str(name), known)}")
    # The last variant fits whatever the file holds.
    return next(kind for kind in variants if kind.fits(data, {name.removeprefix(kind.base) for name in names}))


def choose(config: Config, source: Mapping[str, Any], *, path: str) -> Architecture:
    """The class to write: the one that the source had, else the first that can hold the config.

    Args:
        config: The config of the model.
        source: Where the model came from.
        path: What to call the target in an error.

    Raises:
        CheckpointError: No class can; names the fields in the way of the nearest.
    """
    name, family = source.get("architecture"), _family(source.get("model_type", ""))
    own = [kind for kind in ARCHITECTURES if kind.name == name]
    kin = [kind for kind in ARCHITECTURES if _family(kind.model_type) == family and kind.written != "own"]
    common = [kind for kind in ARCHITECTURES if kind.written == "any"]
    tried: list[tuple[int, int, str]] = []
    for kind in (*own, *kin, *common):
        if kind.written == "never" or not isinstance(config, kind.family):
            continue
        try:
            reasons = in_the_way(config, kind)
        except ValueError:  # far from it
            continue
        if not reasons:
            return kind
        other = sum(reason.partition(":")[0] not in config.numerics for reason in reasons)
        tried.append((other, len(reasons), f"{kind.name}, can't hold {'; '.join(reasons)}"))
    other, _, nearest = min(tried, key=lambda reasons: reasons[:2])
    hint = "" if other else "\n--numerics huggingface takes its own"
    raise CheckpointError(f"{path}: transformers has no class for this model; the nearest, {nearest}{hint}")


def in_the_way(config: Config, architecture: Architecture) -> list[str]:
    """The fields of a config that a class can't hold, with what it would make of them.

    Raises:
        ValueError: It would make no config at all.
    """
    data = architecture.data(config) | {"num_labels": config.num_classes}
    read = replace(architecture, square=False).config(data)
    if isinstance(config, VitConfig):  # whether it is read is up to who reads it
        read = replace(read, mask_token=config.mask_token and architecture.masks)
    held, wanted = essence(read, free=_FREE), essence(config, free=_FREE)
    oblong = [
        f"{name}: got {getattr(config, name)}, there a square"
        for name in ("image_size", "patch_size")
        if architecture.square and len(set(getattr(config, name))) > 1
    ]
    return (
        oblong
        + _shrunk(config)
        + [f"{name}: got {value!r}, there {held[name]!r}" for name, value in wanted.items() if value != held[name]]
    )


def _shrunk(config: Config) -> list[str]:
    """Tables of windows that have become smaller: transformers' Swins have all of them at the full size."""
    if not isinstance(config, SwinConfig) or config.version == 2:
        return []
    windows = [(config.window(stage, 0)[0], (side, side)) for stage, side in enumerate(config.window_sizes)]
    return [
        f"window of stage {stage}: got {fitted}, there {whole}"
        for stage, (fitted, whole) in enumerate(windows)
        if fitted != whole
    ]


def _family(model_type: str) -> str:
    """An image tower belongs to the model that it is part of."""
    return model_type.removesuffix("_vision_model")
