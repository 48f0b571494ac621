"""Gradient parity: of every parameter and of the input, by canonical name.

What is differentiated is the sum over `forward_features` and the logits of output times a fixed random number: the
vector-Jacobian product with a random vector. A wrong entry of the Jacobian changes it with probability 1. A training
loss would hide some: the cross entropy's gradient sums to zero over the classes, vanishes for what is classified well,
and reaches a model without classes, or most tokens of the last block, not at all.

Gradients are in the order of the backward pass, so that the first one that is off is closest to the cause.

A model with BatchNorm is checked twice: by its running statistics, as it is evaluated, and by those of the batch, as it
is trained, and then the running statistics that are left behind are compared, too.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import vit_jax.random
import vit_torch.random
import vit_torch.state_dict
from vit_jax.functional import bind, params_of, statistics_of
from vit_jax.state_dict import named_leaves

from ..checkpoints import Checkpoint
from ..checkpoints.shapes import is_statistic
from ..compare import layer_scales
from ..configs import Config, Execution
from ..tolerances import FORWARD, GRADIENTS, GRADIENTS_IN_TRAINING
from .forward import Outputs, intermediates, one_by_one
from .parameters import Inputs, as_inputs
from .report import CheckReport, Part, PrecisionReport
from .target import Given, ImageSize, Target, check_dtypes, open_target
from .twins import (
    DTYPES,
    Plant,
    Tensors,
    channels_first,
    channels_last,
    exact_jax,
    flax_inputs,
    flax_model,
    precision_of,
    torch_inputs,
    torch_model,
)

IMAGES = "images"
# Where a model has none of its own; every mask is drawn, and most of the signal stays.
DROP_RATES = {"drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.2}


def check_gradients(
    model: str | Path | Config | Checkpoint,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 2,
    seed: int = 0,
    images: Given = None,
    stochastic: bool = False,
    execution: Execution = Execution(),
    plant: Plant | None = None,
) -> CheckReport:
    """Compares the gradients of every parameter and of every input of floats, and the outputs that they belong to.

    A gradient's difference is relative to its norm, but some are zero except for rounding, as that of a key's bias,
    which softmax ignores. So a bias's is relative to at least the norm it would have with elements as large as those of
    the weight beside it (`parity.compare.layer_scales`).

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format.
        dtypes: Precisions, of `float64`, `float32` and `bfloat16`.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Number of random images.
        seed: The seed of random images, parameters, cotangents and masks.
        images: Normalised images (b, h, w, c), instead of random ones; by name for a model of more inputs.
        stochastic: Whether dropout and stochastic depth draw masks, the same on both sides; at `DROP_RATES` where the
            model has no rates of its own.
        execution: How both models run.
        plant: Changes the PyTorch model before it runs, to see whether the check notices.

    Raises:
        ValueError: An unknown name or precision, or a model that wouldn't fit in memory.
        CheckpointError: Not a readable checkpoint.
    """
    check_dtypes(dtypes)
    target = open_target(
        model, depth=depth, image_size=image_size, batch_size=batch_size, seed=seed, images=images, work="backward"
    )
    if stochastic and not any(getattr(target.config, rate) for rate in DROP_RATES):
        rates = target.config.own_rates(DROP_RATES)
        target = dataclasses.replace(target, config=target.config.with_rates(**rates))
    settings = Settings(execution=execution, seed=seed, key_seed=seed if stochastic else None)
    precisions, faults = [], list(target.faults)
    for dtype, tensors in target.cast(dtypes):
        parts = []
        for training in (False, True) if any(map(is_statistic, tensors)) else (False,):
            mode = dataclasses.replace(settings, training=training)
            found, held = _compared(target, tensors, dtype, mode, plant)
            parts += found
            faults += [fault for fault in held if fault not in faults]
        precisions.append(PrecisionReport(dtype=dtype, parts=tuple(parts)))
    return CheckReport.of("gradients", target, seed, precisions, faults, stochastic=stochastic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How both sides run.

    Attributes:
        execution: How the models run.
        seed: The seed of the cotangents.
        key_seed: The seed of dropout and stochastic depth; None for neither.
        training: Whether BatchNorm takes the statistics of the batch and moves the running ones.
    """

    execution: Execution
    seed: int
    key_seed: int | None = None
    training: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backward:
    """What one framework found on the way forth and back.

    Attributes:
        outputs: The outputs by place.
        gradients: The gradients by the canonical name of the parameter, and by the name of the input.
        statistics: The running statistics afterwards, by canonical name, where the model was trained.
        faults: The tensors that the model doesn't hold bit for bit.
    """

    outputs: Outputs
    gradients: Outputs
    statistics: Outputs
    faults: list[str]


def _compared(
    target: Target, tensors: Tensors, dtype: str, settings: Settings, plant: Plant | None
) -> tuple[list[Part], list[str]]:
    """The parts of one precision and mode, and the tensors that a model doesn't hold bit for bit."""
    config = target.config
    if settings.training:
        # Statistics of fewer bits don't train; and without a key nothing is to drop.
        tensors = {name: _wide(name, value, target) for name, value in tensors.items()}
        config = config if settings.key_seed is not None else config.with_rates(**dict.fromkeys(DROP_RATES, 0.0))
    left = _run_flax(config, tensors, target.inputs, settings)
    right = _run_torch(config, tensors, target.inputs, settings, plant)
    mode, limits = ("_in_training", GRADIENTS_IN_TRAINING) if settings.training else ("", GRADIENTS)
    scales = layer_scales(right.gradients)
    parts = [
        Part.of(f"outputs{mode}", left.outputs, right.outputs, FORWARD[dtype].limit),
        Part.of(f"gradients{mode}", *_in_order(left.gradients, right.gradients), limits[dtype].limit, scales),
    ]
    if settings.training:
        parts.append(Part.of("statistics", *_in_order(left.statistics, right.statistics), FORWARD[dtype].limit))
    return parts, [f"{dtype} {fault}" for fault in (*left.faults, *right.faults)]


def _in_order(left: Outputs, right: Outputs) -> tuple[Outputs, Outputs]:
    """Both, the left in the order of the right."""
    return {name: left[name] for name in right if name in left} | left, right


def _wide(name: str, value: np.ndarray, target: Target) -> np.ndarray:
    """A statistic in float32 or better, of its own value and not of one that was rounded to less."""
    narrow = is_statistic(name) and value.dtype.itemsize < np.dtype(np.float32).itemsize
    return np.asarray(target.tensors[name]).astype(np.float32) if narrow else value


def run_flax(
    config: Config,
    tensors: Tensors,
    images: np.ndarray | Mapping[str, np.ndarray],
    execution: Execution,
    seed: int,
    key_seed: int | None = None,
) -> tuple[Outputs, Outputs, list[str]]:
    """Outputs by place, gradients by canonical name, and the tensors that the model doesn't hold bit for bit.

    Args:
        config: The config of the model, which is in evaluation mode.
        tensors: The tensors by canonical name, all in one precision.
        images: Normalised images (b, h, w, c); every input by name for a model of more than one.
        execution: How the model runs.
        seed: The seed of the cotangents.
        key_seed: The seed of dropout and stochastic depth; None for neither.
    """
    settings = Settings(execution=execution, seed=seed, key_seed=key_seed)
    found = _run_flax(config, tensors, as_inputs(config, images), settings)
    return found.outputs, found.gradients, found.faults


def run_torch(
    config: Config,
    tensors: Tensors,
    images: np.ndarray | Mapping[str, np.ndarray],
    execution: Execution,
    seed: int,
    key_seed: int | None = None,
    *,
    plant: Plant | None = None,
) -> tuple[Outputs, Outputs, list[str]]:
    """As `run_flax`; gradients are in the order of the backward pass."""
    settings = Settings(execution=execution, seed=seed, key_seed=key_seed)
    found = _run_torch(config, tensors, as_inputs(config, images), settings, plant)
    return found.outputs, found.gradients, found.faults


def _run_flax(config: Config, tensors: Tensors, inputs: Inputs, settings: Settings) -> Backward:
    dtype = precision_of(tensors)
    names = _differentiated(inputs)
    with exact_jax(dtype):
        model, faults = flax_model(config, tensors, settings.execution)
        if settings.training:
            model.train()
        key = None if settings.key_seed is None else vit_jax.random.key(settings.key_seed)

        def outputs(params: Any, floats: dict[str, jax.Array], given: dict[str, jax.Array]) -> tuple[list[Any], Any]:
            bound = bind(model, params)
            every = [{**given, **floats}[name] for name in inputs]
            watched = _watched(bound, every, key)
            statistics = statistics_of(bound) if settings.training else {}
            return watched, (_earlier(bound, config, every, settings), statistics)

        def run(params: Any, given: dict[str, jax.Array]) -> tuple[list[Any], dict[str, Any], Any, Any]:
            floats = {name: given[name] for name in names}
            watched, pull, (earlier, statistics) = jax.vjp(
                lambda params, floats: outputs(params, floats, given), params, floats, has_aux=True
            )
            shapes = [value.shape for value in watched]
            grads = pull([jnp.asarray(c) for c in _cotangents(shapes, dtype, settings.seed)])
            return [*earlier, *watched], statistics, *grads

        given = dict(zip(inputs, flax_inputs(inputs, dtype), strict=True))
        values, statistics, grads, of_inputs = jax.jit(run)(params_of(model), given)
        rules = {name: rule for name, _, rule, _ in named_leaves(model) if name in grads}
        found = {name: rule.to_canonical(np.asarray(grads[name])) for name, rule in rules.items()}
        return Backward(
            outputs=_named(config, [np.asarray(value) for value in values]),
            gradients=found | {name: np.asarray(of_inputs[name]) for name in names},
            statistics={name: np.asarray(value) for name, value in statistics.items()},
            faults=faults,
        )


def _run_torch(config: Config, tensors: Tensors, inputs: Inputs, settings: Settings, plant: Plant | None) -> Backward:
    dtype = precision_of(tensors)
    model, faults = torch_model(config, tensors, settings.execution, plant)
    model.train(settings.training)
    key = None if settings.key_seed is None else vit_torch.random.key(settings.key_seed)
    given = dict(zip(inputs, torch_inputs(inputs, dtype), strict=True))
    floats = {name: given[name].requires_grad_() for name in _differentiated(inputs)}
    watched = _watched(model, list(given.values()), key)
    with torch.no_grad():
        earlier = _earlier(model, config, list(given.values()), settings)
    # Drawn in Flax's layout, so that the same numbers meet the same elements.
    shapes = [tuple(channels_last(value).shape) for value in watched]
    cotangents = [
        vit_torch.state_dict.from_numpy(channels_first(cotangent))
        for cotangent in _cotangents(shapes, dtype, settings.seed)
    ]
    names, parameters = zip(*reversed(list(model.named_parameters())), strict=True)
    grads = torch.autograd.grad(watched, [*parameters, *floats.values()], cotangents, materialize_grads=True)
    arrays = dict(zip((*names, *floats), map(vit_torch.state_dict.to_numpy, grads), strict=True))
    return Backward(
        outputs=_named(config, [vit_torch.state_dict.to_numpy(channels_last(value)) for value in (*earlier, *watched)]),
        gradients=arrays | {name: channels_last(arrays[name]) for name in floats},
        statistics={n: v for n, v in vit_torch.state_dict.state_dict(model).items() if is_statistic(n)},
        faults=faults,
    )


def _watched(model: Any, inputs: Sequence[Any], key: Any) -> list[Any]:
    """What is differentiated; the same code for both frameworks."""
    features = model.forward_features(*inputs, key=key)
    return [*one_by_one(features), *one_by_one(model.forward_head(features))]


def _earlier(model: Any, config: Config, inputs: Sequence[Any], settings: Settings) -> list[Any]:
    """What comes before, and isn't differentiated; nothing where another pass would draw or move anything again."""
    once = settings.key_seed is not None or settings.training
    return [] if once else intermediates(model, config, inputs)


def _differentiated(inputs: Inputs) -> list[str]:
    """Names of the inputs of floats."""
    return [name for name, value in inputs.items() if jnp.issubdtype(value.dtype, jnp.floating)]


def _named(config: Config, values: Sequence[np.ndarray]) -> Outputs:
    """The last outputs of a forward pass by place: all of them, or the differentiated ones alone."""
    return dict(zip(config.places[-len(values) :], values, strict=True))


def _cotangents(shapes: Sequence[tuple[int, ...]], dtype: Any, seed: int) -> list[np.ndarray]:
    """Random directions, each of about the same length for every image, so that no output outweighs the other."""
    rng = np.random.default_rng([seed, zlib.crc32(b"cotangents")])
    return [(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype) for shape in shapes]
