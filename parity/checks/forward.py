"""Forward parity: both frameworks built from the same parameters, held against each other place by place."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

import vit_torch.state_dict

from ..checkpoints import Checkpoint
from ..configs import Config, Execution
from ..tolerances import FORWARD
from .parameters import as_inputs
from .report import CheckReport, Part, PrecisionReport
from .target import Given, ImageSize, check_dtypes, open_target
from .twins import (
    DTYPES,
    Plant,
    Tensors,
    channels_last,
    exact_jax,
    flax_inputs,
    flax_model,
    precision_of,
    torch_inputs,
    torch_model,
)

Outputs = dict[str, np.ndarray]


def check_forward(
    model: str | Path | Config | Checkpoint,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 2,
    seed: int = 0,
    images: Given = None,
    execution: Execution = Execution(),
    plant: Plant | None = None,
) -> CheckReport:
    """Compares the twins place by place: of a flat ViT the patch embedding, every block, features and logits.

    The parameters are float64 values cast down to each precision, the same for both frameworks: those of the
    checkpoint, or random ones in every tensor. The report also says whether both models hold them bit for bit.

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format.
        dtypes: Precisions, of `float64`, `float32` and `bfloat16`.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Number of random images.
        seed: The seed of random images and parameters.
        images: Normalised images (b, h, w, c), instead of random ones; by name for a model of more inputs.
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
        left, flax_faults = run_flax(target.config, tensors, target.inputs, execution)
        right, torch_faults = run_torch(target.config, tensors, target.inputs, execution, plant)
        faults += [f"{dtype} {fault}" for fault in (*flax_faults, *torch_faults)]
        part = Part.of("outputs", left, right, FORWARD[dtype].limit)
        precisions.append(PrecisionReport(dtype=dtype, parts=(part,)))
    return CheckReport.of("forward", target, seed, precisions, faults)


def run_flax(
    config: Config, tensors: Tensors, images: np.ndarray | Mapping[str, np.ndarray], execution: Execution
) -> tuple[Outputs, list[str]]:
    """Outputs by place, and the tensors that the model doesn't hold bit for bit.

    Args:
        config: The config of the model.
        tensors: The tensors by canonical name, all in one precision.
        images: Normalised images (b, h, w, c); every input by name for a model of more than one.
        execution: How the model runs.
    """
    dtype = precision_of(tensors)
    with exact_jax(dtype):
        model, faults = flax_model(config, tensors, execution)
        graphdef, state = nnx.split(model)
        run = jax.jit(lambda state, inputs: _outputs(nnx.merge(graphdef, state), config, inputs))
        outputs = run(state, flax_inputs(as_inputs(config, images), dtype))
        return {place: np.asarray(value) for place, value in zip(config.places, outputs, strict=True)}, faults


def run_torch(
    config: Config,
    tensors: Tensors,
    images: np.ndarray | Mapping[str, np.ndarray],
    execution: Execution,
    plant: Plant | None,
) -> tuple[Outputs, list[str]]:
    """As `run_flax`; maps are brought to (b, h, w, c)."""
    model, faults = torch_model(config, tensors, execution, plant)
    with torch.inference_mode():
        outputs = _outputs(model, config, torch_inputs(as_inputs(config, images), precision_of(tensors)))
    arrays = (vit_torch.state_dict.to_numpy(channels_last(value)) for value in outputs)
    return dict(zip(config.places, arrays, strict=True)), faults


def intermediates(model: Any, config: Config, inputs: Sequence[Any]) -> list[Any]:
    """What is embedded and what each unit returns; the same code for both frameworks."""
    embedded = [_part(model, name)(*inputs) for name in config.embeddings]
    return [*embedded, *model.forward_intermediates(*inputs)]


def one_by_one(value: Any) -> list[Any]:
    """The arrays of what a model returns: one, or several in a tuple."""
    return list(value) if isinstance(value, tuple | list) else [value]


def _outputs(model: Any, config: Config, inputs: Sequence[Any]) -> list[Any]:
    """What is compared."""
    features = model.forward_features(*inputs)
    # As `model(*inputs)` does, which would run the blocks once more.
    outputs = model.forward_head(features)
    return [*intermediates(model, config, inputs), *one_by_one(features), *one_by_one(outputs)]


def _part(model: Any, name: str) -> Any:
    """A submodule by its path."""
    return functools.reduce(getattr, name.split("."), model)
