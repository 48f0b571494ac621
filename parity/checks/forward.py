"""Forward parity: both frameworks built from the same parameters, held against each other place by place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import vit_torch.state_dict

from ..checkpoints import Checkpoint
from ..configs import Config, Execution
from ..tolerances import FORWARD
from .report import CheckReport, Part, PrecisionReport
from .target import ImageSize, check_dtypes, open_target
from .twins import DTYPES, Plant, Tensors, exact_jax, flax_model, torch_images, torch_model

Outputs = dict[str, np.ndarray]


def check_forward(
    model: str | Path | Config | Checkpoint,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 2,
    seed: int = 0,
    images: np.ndarray | None = None,
    execution: Execution = Execution(),
    plant: Plant | None = None,
) -> CheckReport:
    """Compares the twins: patch embedding, the output of every block, `forward_features` and the logits.

    The parameters are float64 values cast down to each precision, the same for both frameworks: those of the
    checkpoint, or random ones in every tensor. The report also says whether both models hold them bit for bit.

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format.
        dtypes: Precisions, of `float64`, `float32` and `bfloat16`.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Number of random images.
        seed: Of random images and parameters.
        images: Normalised (b, h, w, c) of the input size, instead of random ones.
        execution: How both models run.
        plant: Changes the PyTorch model before it runs, to see whether the check notices.

    Raises:
        ValueError: An unknown name or precision, or a model that wouldn't fit in memory.
        CheckpointError: Not a readable checkpoint.
    """
    check_dtypes(dtypes)
    target = open_target(model, depth=depth, image_size=image_size, batch_size=batch_size, seed=seed, images=images)
    precisions, faults = [], list(target.faults)
    for dtype, tensors in target.cast(dtypes):
        left, flax_faults = run_flax(target.config, tensors, target.images, execution)
        right, torch_faults = run_torch(target.config, tensors, target.images, execution, plant)
        faults += [f"{dtype} {fault}" for fault in (*flax_faults, *torch_faults)]
        part = Part.of("outputs", left, right, FORWARD[dtype].limit)
        precisions.append(PrecisionReport(dtype=dtype, parts=(part,)))
    return CheckReport.of("forward", target, seed, precisions, faults)


def run_flax(config: Config, tensors: Tensors, images: np.ndarray, execution: Execution) -> tuple[Outputs, list[str]]:
    """Outputs by place, and the tensors that the model doesn't hold bit for bit."""
    dtype = next(iter(tensors.values())).dtype
    with exact_jax(dtype):
        model, faults = flax_model(config, tensors, execution)
        graphdef, state = nnx.split(model)
        run = jax.jit(lambda state, images: _outputs(nnx.merge(graphdef, state), images))
        outputs = run(state, jnp.asarray(images.astype(dtype)))
        return {place: np.asarray(value) for place, value in zip(places(config), outputs, strict=True)}, faults


def run_torch(
    config: Config, tensors: Tensors, images: np.ndarray, execution: Execution, plant: Plant | None
) -> tuple[Outputs, list[str]]:
    """As `run_flax`."""
    model, faults = torch_model(config, tensors, execution, plant)
    with torch.inference_mode():
        outputs = _outputs(model, torch_images(images, next(iter(tensors.values())).dtype))
    arrays = (vit_torch.state_dict.to_numpy(value) for value in outputs)
    return dict(zip(places(config), arrays, strict=True)), faults


def places(config: Config) -> list[str]:
    """Names of what is compared, in the order of the forward pass."""
    return ["patch_embed", *(f"blocks.{i}" for i in range(config.depth)), "forward_features", "logits"]


def intermediates(model: Any, images: Any) -> list[Any]:
    """The embedded patches and the output of each block; the same code for both frameworks."""
    return [model.patch_embed(images), *model.forward_intermediates(images)]


def _outputs(model: Any, images: Any) -> list[Any]:
    """What is compared."""
    features = model.forward_features(images)
    # As `model(images)` does, which would run the blocks once more.
    return [*intermediates(model, images), features, model.forward_head(features)]
