"""Layer parity: what every submodule takes and returns, in the order of the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoints import Checkpoint
from ..configs import Config, Execution
from ..tolerances import LAYERS
from .capture import capture_flax, capture_torch
from .report import CheckReport, Part, PrecisionReport
from .target import Given, ImageSize, check_dtypes, open_target
from .twins import DTYPES, Plant, exact_jax, flax_model, torch_model


def check_layers(
    model: str | Path | Config | Checkpoint,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 2,
    seed: int = 0,
    images: Given = None,
    plant: Plant | None = None,
) -> CheckReport:
    """Compares every intermediate of the twins; the first one that diverges is next to the cause.

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format.
        dtypes: Precisions, of `float64`, `float32` and `bfloat16`.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Number of random images.
        seed: The seed of random images and parameters.
        images: Normalised images (b, h, w, c), instead of random ones; by name for a model of more inputs.
        plant: Changes the PyTorch model before it runs, to see whether the check notices.

    Raises:
        ValueError: An unknown name or precision, or a model that wouldn't fit in memory.
        CheckpointError: Not a readable checkpoint.
    """
    check_dtypes(dtypes)
    # Every intermediate is kept, as for a backward pass.
    target = open_target(
        model, depth=depth, image_size=image_size, batch_size=batch_size, seed=seed, images=images, work="backward"
    )
    precisions, faults = [], list(target.faults)
    for dtype, tensors in target.cast(dtypes):
        with exact_jax(DTYPES[dtype]):
            flax, flax_faults = flax_model(target.config, tensors, Execution())
            left = capture_flax(flax, list(target.inputs.values()))
        torch, torch_faults = torch_model(target.config, tensors, Execution(), plant)
        right = capture_torch(torch, list(target.inputs.values()))
        faults += [f"{dtype} {fault}" for fault in (*flax_faults, *torch_faults)]
        precisions.append(PrecisionReport(dtype=dtype, parts=(Part.of("layers", left, right, LAYERS[dtype].limit),)))
    return CheckReport.of("layers", target, seed, precisions, faults)
