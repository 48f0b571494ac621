"""Models to and from checkpoints. Twin: `vit_jax/checkpoint.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from parity import checkpoints, configs
from parity.checkpoints import adapt
from parity.configs import Execution

from .models import Model, create_model
from .state import load_state_dict, state_dict


def load(
    path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
    execution: Execution = Execution(),
) -> Model:
    """The model of a checkpoint, in evaluation mode.

    Args:
        path: A native checkpoint, a foreign one, or `hf-hub:owner/name` (`parity.checkpoints.formats.hub`).
        device: Where the parameters go.
        dtype: Of the parameters; None for that of the file.
        image_size: Another input size; positions are resized.
        patch_size: Another patch size; positions and the patch embedding are resized.
        num_classes: Another head, with new values; 0 for none.
        global_pool: Another pooling, such as `avg` for a source that doesn't pool.
        execution: How to run the model.

    Raises:
        CheckpointError: Not a readable checkpoint, or tensors that don't fit, all in one report.
    """
    checkpoint = checkpoints.open_checkpoint(path)
    config, tensors = adapt(
        checkpoint, image_size=image_size, patch_size=patch_size, num_classes=num_classes, global_pool=global_pool
    )
    model = create_model(config, device="meta", execution=execution)
    load_state_dict(model, tensors, source=str(path), device=device)
    return model.to(dtype=dtype).eval()


def save(model: Model, path: str | Path, *, name: str = "") -> None:
    """Writes a native checkpoint, whole or not at all.

    Args:
        model: With concrete parameters.
        path: A directory; an older native checkpoint there is replaced.
        name: The registered name that the model started from; found by its config if there is one.

    Raises:
        CheckpointError: Something other than a native checkpoint is in the way.
    """
    source = {"framework": "torch", "parameters": sum(parameter.numel() for parameter in model.parameters())}
    checkpoints.write(path, model.config, state_dict(model), name=name or configs.name_of(model.config), source=source)
