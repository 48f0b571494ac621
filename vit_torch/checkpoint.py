"""Models to and from checkpoints. Twin: `vit_jax/checkpoint.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from parity import checkpoints, configs
from parity.checkpoints import Checkpoint, adapt, open_to_load, parameter_count
from parity.configs import Config, Execution

from .models import Model, create_model
from .state_dict import load_state_dict, numpy_dtype, state_dict


def load(
    path: str | Path | Checkpoint,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
    model: str | Config | None = None,
    format: str | None = None,
    numerics: str | None = None,
    prefix: str | None = None,
    ignore: Sequence[str] = (),
    execution: Execution = Execution(),
    **fields: Any,
) -> Model:
    """The model of a checkpoint, in evaluation mode; an `AssumedWarning` says what had to be assumed of it.

    Args:
        path: Any checkpoint, `hf-hub:owner/name`, or what `parity.checkpoints.open_checkpoint` has opened, which can be
            told the file's own `image_size`.
        device: Where the parameters go.
        dtype: The type of the parameters; None for that of the file.
        image_size: Another input size; positions are resized.
        patch_size: Another patch size; positions and the patch embedding are resized.
        num_classes: Another head, with new values; 0 for none.
        global_pool: Another pooling, such as `avg` for a source that doesn't pool.
        model: A registered name, or a config, for what the file doesn't say of itself.
        format: The format of the file, one of `parity.checkpoints.SOURCES`; recognised by default.
        numerics: The project as whose model the weights are run; by default the one they come from.
        prefix: What the names of the model begin with, where a file has several models.
        ignore: Shell-style patterns of tensors to leave out.
        execution: How to run the model.
        fields: Config fields that the file doesn't say, such as `num_heads=4`.

    Raises:
        ValueError: An unknown model, format, project or field.
        CheckpointError: Not a readable checkpoint, or tensors that don't fit, all in one report.
    """
    said: dict[str, Any] = dict(model=model, format=format, numerics=numerics, prefix=prefix, ignore=ignore)
    checkpoint = open_to_load(path, image_size=image_size, global_pool=global_pool, **said, **fields)
    sizes: dict[str, Any] = dict(image_size=image_size, patch_size=patch_size, num_classes=num_classes)
    exact = None if dtype is None else numpy_dtype(dtype)
    config, tensors = adapt(checkpoint, **sizes, global_pool=global_pool, dtype=exact)
    built = create_model(config, device="meta", execution=execution)
    load_state_dict(built, tensors, source=str(checkpoint.path), device=device)
    return built.to(dtype=dtype).eval()


def save(model: Model, path: str | Path, *, name: str = "", source: Mapping[str, Any] | None = None) -> None:
    """Writes a native checkpoint, whole or not at all.

    Args:
        model: A model with concrete parameters.
        path: A directory; an older native checkpoint there is replaced.
        name: The registered name that the model started from; found by its config if there is one.
        source: More to keep of where the weights came from, JSON values.

    Raises:
        CheckpointError: Something other than a native checkpoint is in the way.
    """
    origin = {"framework": "torch", "parameters": parameter_count(model.config)}
    checkpoints.write(
        path,
        model.config,
        state_dict(model),
        name=name or configs.name_of(model.config),
        source=origin | dict(source or {}),
    )
