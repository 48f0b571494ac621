"""The models of a run that help and never change, such as a teacher: opened, held against the run, and recorded.

`frozen.json` in the run's directory says which files they were, so that a run can't go on with others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import outputs
from ..checkpoints import Checkpoint, CheckpointError, account, open_checkpoint, parameter_shapes, shapes_of
from ..checkpoints.containers.document import read_json
from ..configs import Config, to_dict
from ..data import Source
from ..recipes import Recipe

FROZEN = "frozen.json"


def open_frozen(recipe: Recipe) -> dict[str, Checkpoint]:
    """The checkpoints that a recipe's objective names, by its own names; no tensor is read yet.

    Raises:
        ValueError: The objective needs one that the recipe doesn't name.
        CheckpointError: One that can't be opened, or whose tensors aren't those of its config.
    """
    opened = {}
    for name, (path, options) in recipe.objective.checkpoints().items():
        checkpoint = opened[name] = open_checkpoint(path, **dict(options))
        account(parameter_shapes(checkpoint.config), shapes_of(checkpoint.tensors), source=path)
    return opened


def check_frozen(frozen: Mapping[str, Checkpoint], config: Config, data: Source) -> None:
    """Holds the models that help against the model that is trained, and against its data.

    Args:
        frozen: The checkpoints that `open_frozen` returned.
        config: The config of the model that is trained.
        data: What it is trained on.

    Raises:
        ValueError: Other classes than the data's, or images that a model can't take; names the objective's field.
    """
    for name, checkpoint in frozen.items():
        theirs = checkpoint.config
        if theirs.num_classes != data.num_classes:
            got = f"{checkpoint.path} with {theirs.num_classes} classes"
            raise ValueError(f"objective.{name}: got {got}, expected the {data.num_classes} of {data.name}")
        data.check_labels(checkpoint.source.get("labels") or (), str(checkpoint.path))
        if config.in_chans not in (1, theirs.in_chans):  # grey images are the same in each channel
            got = f"{checkpoint.path} for images of {theirs.in_chans} channels"
            raise ValueError(f"objective.{name}: got {got}, expected the {config.in_chans} of the model")


def record_frozen(directory: Path, frozen: Mapping[str, Checkpoint]) -> None:
    """Writes which files they are to a run's directory, or holds them against what an earlier call wrote there.

    Args:
        directory: The directory of the run, which is there.
        frozen: The checkpoints that `open_frozen` returned.

    Raises:
        CheckpointError: The run began with other ones.
    """
    if not frozen:
        return
    found = {name: _identity(checkpoint) for name, checkpoint in frozen.items()}
    file = directory / FROZEN
    if not file.exists():
        outputs.write_text(file, json.dumps(found, indent=2) + "\n")
        return
    before = read_json(file)
    for name, identity in found.items():
        if before.get(name) != identity:
            path = frozen[name].path
            raise CheckpointError(
                f"{path}: objective.{name}: its config or its numbers aren't those that the run in {directory} began "
                f"with ({file}); put the old file back, or train in another directory"
            )


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """What says that a checkpoint is the same one: its config, and a digest of every tensor."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        value = checkpoint.tensors[name]
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return {"config_sha256": config_digest(checkpoint.config), "tensors_sha256": digest.hexdigest()}


def config_digest(config: Config) -> str:
    """The SHA-256 of a config, in hexadecimal."""
    return hashlib.sha256(json.dumps(to_dict(config)).encode()).hexdigest()
