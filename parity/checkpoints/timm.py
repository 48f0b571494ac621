"""timm's format: the directory that its hub repositories hold, or one `.safetensors` file.

Canonical names and layout are timm's own, so tensors pass through as they are; what is translated is `config.json`.
Source: timm `models/_hub.py` (`load_model_config_from_path`, `save_for_hf`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..configs import Config, get, name_of, replace
from .accounting import CheckpointError
from .files import write_directory
from .native import CONFIG, Checkpoint
from .tensors import LazyTensors

# Where timm's constructor arguments are named otherwise than ours; only those that one architecture can vary.
_ARGUMENTS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "in_chans": "in_chans",
    "drop_path_rate": "drop_path_rate",
    "attn_drop_rate": "attn_drop_rate",
    "num_classes": "num_classes",
    "depth": "depth",
}


def is_timm(path: Path) -> bool:
    """Whether a directory says that it is one of timm's."""
    try:
        data = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "architecture" in data and "format" not in data


def read(path: Path, *, model: str | None = None) -> Checkpoint:
    """Opens timm's directory, or a `.safetensors` file of a model that is named.

    Raises:
        CheckpointError: Unknown architecture or argument; names the file and the field.
    """
    if path.is_file():
        if model is None:
            raise CheckpointError(f"{path}: a lone file doesn't say which model it is; name one, such as --model NAME")
        return Checkpoint(path, get(model), model, {"format": "timm", "path": str(path)}, LazyTensors(path))
    file = path / CONFIG
    data = json.loads(file.read_text())
    try:
        config = _config(data, model)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    name = model or data["architecture"]
    return Checkpoint(path, config, name, {"format": "timm", "path": str(path)}, LazyTensors(path))


def write(path: str | Path, config: Config, tensors: Mapping[str, np.ndarray], *, name: str = "", **_: Any) -> None:
    """Writes a directory that `timm.create_model("local-dir:...", pretrained=True)` loads, whole or not at all.

    Raises:
        CheckpointError: The config is none of timm's architectures, or something else is in the way.
    """
    name = name or name_of(config)
    if not name or not name.startswith(("vit_", "deit", "flexivit", "eva", "test_vit")):
        raise CheckpointError(f"{path}: timm has no architecture for this config (name: {name!r})")
    registered = get(name)
    differs = {
        theirs: getattr(config, ours)
        for theirs, ours in _ARGUMENTS.items()
        if getattr(config, ours) != getattr(registered, ours)
    }
    expressed = {_ARGUMENTS[theirs]: value for theirs, value in differs.items()}
    if replace(registered, **expressed, preprocessing=config.preprocessing) != config:
        raise CheckpointError(f"{path}: timm can't express how this config differs from {name}")
    images = config.preprocessing
    data = {
        "architecture": name,
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": config.global_pool,
        "model_args": {key: value for key, value in differs.items() if key != "num_classes"},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [config.in_chans, *config.image_size],
            "fixed_input_size": True,
            "interpolation": images.interpolation,
            "crop_pct": images.crop_pct,
            "crop_mode": images.crop_mode,
            "mean": list(images.mean),
            "std": list(images.std),
            "num_classes": config.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if config.dist_token else "head",
        },
    }
    write_directory(Path(path), tensors, {CONFIG: data}, replaces=is_timm)


def _config(data: Mapping[str, Any], model: str | None) -> Config:
    config = get(model or data["architecture"])
    arguments = dict(data.get("model_args") or {})
    # timm writes it always; another one than the architecture's own would add or leave out norms.
    pool = arguments.pop("global_pool", config.global_pool)
    if pool != config.global_pool:
        raise ValueError(f"model_args.global_pool: got {pool!r}, expected {config.global_pool!r} of the architecture")
    unknown = [key for key in arguments if key not in _ARGUMENTS]
    if unknown:
        raise ValueError(f"model_args.{unknown[0]}: not supported, expected some of {', '.join(_ARGUMENTS)}")
    fields = {_ARGUMENTS[key]: value for key, value in arguments.items()}
    pretrained = data.get("pretrained_cfg") or {}
    num_classes = data.get("num_classes", pretrained.get("num_classes"))
    if num_classes is not None:
        fields["num_classes"] = num_classes
    images = {
        key: pretrained[key]
        for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
        if pretrained.get(key) is not None
    }
    images = {key: tuple(value) if isinstance(value, list) else value for key, value in images.items()}
    fields["preprocessing"] = replace(config.preprocessing, **images)
    return replace(config, **fields)
