"""Gradient parity: of every parameter and of the input, by canonical name.

What is differentiated is the sum over `forward_features` and the logits of output times a fixed random number: the
vector-Jacobian product with a random vector. A wrong entry of the Jacobian changes it with probability 1. A training
loss would hide some: the cross entropy's gradient sums to zero over the classes, vanishes for what is classified well,
and reaches a model without classes, or most tokens of the last block, not at all.

Gradients are in the order of the backward pass, so that the first one that is off is closest to the cause.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import vit_jax.random
import vit_torch.random
import vit_torch.state_dict
from vit_jax.functional import bind, params_of
from vit_jax.state_dict import named_leaves

from ..checkpoints import Checkpoint
from ..compare import layer_scales
from ..configs import Config, Execution
from ..tolerances import FORWARD, GRADIENTS
from .forward import Outputs, intermediates, places
from .report import CheckReport, Part, PrecisionReport
from .target import ImageSize, check_dtypes, open_target
from .twins import DTYPES, Plant, Tensors, exact_jax, flax_model, torch_images, torch_model

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
    images: np.ndarray | None = None,
    stochastic: bool = False,
    execution: Execution = Execution(),
    plant: Plant | None = None,
) -> CheckReport:
    """Compares the gradients of every parameter and of the images, and the outputs that they belong to.

    A gradient's difference is relative to its norm, but some are zero except for rounding, as that of a key's bias,
    which softmax ignores. So a bias's is relative to at least the norm it would have with elements as large as those of
    the weight beside it (`parity.compare.layer_scales`).

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format.
        dtypes: Precisions, of `float64`, `float32` and `bfloat16`.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Number of random images.
        seed: Of random images, parameters, cotangents and masks.
        images: Normalised (b, h, w, c) of the input size, instead of random ones.
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
        target = dataclasses.replace(target, config=dataclasses.replace(target.config, **DROP_RATES))
    key_seed = seed if stochastic else None
    precisions, faults = [], list(target.faults)
    for dtype, tensors in target.cast(dtypes):
        given = (target.config, tensors, target.images, execution, seed, key_seed)
        left, left_grads, flax_faults = run_flax(*given)
        right, right_grads, torch_faults = run_torch(*given, plant=plant)
        faults += [f"{dtype} {fault}" for fault in (*flax_faults, *torch_faults)]
        left_grads = {name: left_grads[name] for name in right_grads if name in left_grads} | left_grads
        outputs = Part.of("outputs", left, right, FORWARD[dtype].limit)
        scales = layer_scales(right_grads)
        gradients = Part.of("gradients", left_grads, right_grads, GRADIENTS[dtype].limit, scales)
        precisions.append(PrecisionReport(dtype=dtype, parts=(outputs, gradients)))
    return CheckReport.of("gradients", target, seed, precisions, faults, stochastic=stochastic)


def run_flax(
    config: Config,
    tensors: Tensors,
    images: np.ndarray,
    execution: Execution,
    seed: int,
    key_seed: int | None = None,
) -> tuple[Outputs, Outputs, list[str]]:
    """Outputs by place, gradients by canonical name, and the tensors that the model doesn't hold bit for bit.

    Args:
        config: Of the model.
        tensors: By canonical name, all in one precision.
        images: Normalised (b, h, w, c).
        execution: How the model runs.
        seed: Of the cotangents.
        key_seed: Of dropout and stochastic depth; None for neither.
    """
    dtype = next(iter(tensors.values())).dtype
    with exact_jax(dtype):
        model, faults = flax_model(config, tensors, execution)
        key = None if key_seed is None else vit_jax.random.key(key_seed)

        def outputs(params: Any, images: jax.Array) -> tuple[list[Any], list[Any]]:
            bound = bind(model, params)
            return _watched(bound, images, key), intermediates(bound, images) if key is None else []

        def run(params: Any, images: jax.Array) -> tuple[list[Any], Any, Any]:
            watched, pull, earlier = jax.vjp(outputs, params, images, has_aux=True)
            grads = pull([jnp.asarray(c) for c in _cotangents([value.shape for value in watched], dtype, seed)])
            return [*earlier, *watched], *grads

        values, grads, of_images = jax.jit(run)(params_of(model), jnp.asarray(images.astype(dtype)))
        rules = {name: rule for name, _, rule, _ in named_leaves(model) if name in grads}
        found = {n: np.ascontiguousarray(rule.to_canonical(np.asarray(grads[n]))) for n, rule in rules.items()}
        return _named(config, [np.asarray(value) for value in values]), found | {IMAGES: np.asarray(of_images)}, faults


def run_torch(
    config: Config,
    tensors: Tensors,
    images: np.ndarray,
    execution: Execution,
    seed: int,
    key_seed: int | None = None,
    *,
    plant: Plant | None = None,
) -> tuple[Outputs, Outputs, list[str]]:
    """As `run_flax`; gradients are in the order of the backward pass."""
    dtype = next(iter(tensors.values())).dtype
    model, faults = torch_model(config, tensors, execution, plant)
    key = None if key_seed is None else vit_torch.random.key(key_seed)
    inputs = torch_images(images, dtype).requires_grad_()
    watched = _watched(model, inputs, key)
    with torch.no_grad():
        earlier = intermediates(model, inputs) if key is None else []
    cotangents = _cotangents([tuple(value.shape) for value in watched], dtype, seed)
    cotangents = [vit_torch.state_dict.from_numpy(cotangent) for cotangent in cotangents]
    names, parameters = zip(*reversed(list(model.named_parameters())), strict=True)
    grads = torch.autograd.grad(watched, [*parameters, inputs], cotangents, materialize_grads=True)
    arrays = [vit_torch.state_dict.to_numpy(grad) for grad in grads]
    found = dict(zip(names, arrays, strict=False)) | {IMAGES: arrays[-1].transpose(0, 2, 3, 1)}
    return _named(config, [vit_torch.state_dict.to_numpy(value) for value in (*earlier, *watched)]), found, faults


def _watched(model: Any, images: Any, key: Any) -> list[Any]:
    """What is differentiated; the same code for both frameworks."""
    features = model.forward_features(images, key=key)
    return [features, model.forward_head(features)]


def _named(config: Config, values: Sequence[np.ndarray]) -> Outputs:
    """The last outputs of a forward pass by place: all of them, or the differentiated ones alone."""
    return dict(zip(places(config)[-len(values) :], values, strict=True))


def _cotangents(shapes: Sequence[tuple[int, ...]], dtype: Any, seed: int) -> list[np.ndarray]:
    """Random directions, each of about the same length for every image, so that no output outweighs the other."""
    rng = np.random.default_rng([seed, zlib.crc32(b"cotangents")])
    return [(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype) for shape in shapes]
