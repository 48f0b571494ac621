"""The native checkpoint: a directory with `config.json` and `model.safetensors` that both frameworks read and write.

`config.json` holds the config (architecture, numerics, preprocessing), its name and where the weights came from;
`model.safetensors` holds tensors by canonical (timm) name in canonical (PyTorch) layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, from_dict, to_dict
from ..accounting import CheckpointError
from ..assumed import Assumption
from ..checkpoint import Checkpoint
from ..containers.document import find_json, read_json
from ..containers.files import Directory, write_directory
from ..containers.tensors import open_tensors

CONFIG = "config.json"
FORMAT = "vit-parity"
VERSION = 2


def is_native(path: Path) -> bool:
    """Whether a directory says that it is a native checkpoint."""
    return find_json(path / CONFIG).get("format") == FORMAT


# Every family has its names here.
HOLDS: tuple[type[Config], ...] = (Config,)
TARGET = Directory(documents=(CONFIG,), is_ours=is_native)


def read(path: str | Path) -> Checkpoint:
    """Opens a native checkpoint; no tensor is read yet.

    Raises:
        CheckpointError: Not a native checkpoint, or a config that makes no model; names the file and the field.
    """
    path = Path(path)
    file = path / CONFIG
    data = read_json(file)
    if data.get("format") != FORMAT:
        raise CheckpointError(f"{file}: got no field format={FORMAT!r}, expected a native checkpoint")
    found = data.get("format_version")
    if found not in (1, VERSION):
        raise CheckpointError(
            f"{file}: format_version: got {found!r}, expected {VERSION}; a newer vit-parity wrote it?"
        )
    try:
        config = from_dict(_upgraded(data.get("config") or {}, found))
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    name, source = data.get("name") or "", data.get("source") or {}
    if not isinstance(name, str) or not isinstance(source, dict):
        raise CheckpointError(
            f"{file}: name, source: got {name!r:.80}, {source!r:.80}, expected a string and an object"
        )
    try:
        assumed = tuple(Assumption(**item) for item in source.get("assumed", ()))
    except TypeError:
        raise CheckpointError(f"{file}: source.assumed: expected objects of field, value and why") from None
    return Checkpoint(path, config, name, source, open_tensors(path), assumed)


def _upgraded(config: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    """A config as the current version writes it: before 2, `pos_embed_prefix` was true or false."""
    prefix = config.get("pos_embed_prefix")
    if version == 1 and isinstance(prefix, bool):
        return {**config, "pos_embed_prefix": "all" if prefix else "none"}
    return config


def write(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes a native checkpoint, whole or not at all.

    Args:
        path: The directory; an older native checkpoint there is replaced once the new one is complete.
        config: The config of the model.
        tensors: The tensors by canonical name, in canonical layout.
        name: The registered name that the config started from.
        source: Where the weights came from; JSON values.

    Raises:
        CheckpointError: Something other than a native checkpoint is in the way.
    """
    data = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": name,
        "config": to_dict(config),
        "source": dict(source or {}),
    }
    write_directory(Path(path), TARGET, tensors, {CONFIG: data})
