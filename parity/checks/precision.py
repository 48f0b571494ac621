"""Mixed precision against float64: each framework's gradients of a training step, held against its own in float64.

Twins that agree can be wrong in the same way. From the same float32 parameters and the same batch of real images, each
computes the objective's gradients in float64 and in fewer bits. What rounding does to a gradient is its relative
error. What a sum does whose partial sums have too few bits, so that it stops growing, is in the ratio of the two norms:
rounding goes either way and leaves it. The batch is large, for that is where such sums go wrong.

The average of the parameters is a sum, too, over steps: it is held against the same in float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import vit_jax.train_step
import vit_torch.state_dict
import vit_torch.train_step

from ..checkpoints import Checkpoint
from ..checkpoints.shapes import is_statistic
from ..compare import layer_scales
from ..configs import Config
from ..recipes import Recipe
from ..tolerances import PRECISION, PRECISION_AVERAGE, PRECISION_IN_TRAINING, PRECISION_NORM
from .report import CheckReport, Part, PrecisionReport
from .runs import Batch, FlaxRun, TorchRun, batches_of
from .target import ImageSize, check_dtypes
from .training import open_training
from .twins import DTYPES, Tensors, exact_jax

# Gradients by the name of the framework.
Gradients = dict[str, Tensors]
# Of the average: updates, the share of each, and elements of each tensor.
_UPDATES, _SHARE, _ELEMENTS = 1000, 1e-5, 1000
# A gradient that is so small beside its layer's is zero but for rounding.
_ZERO = 1e-9


def check_precision(
    model: str | Path | Config | Checkpoint,
    *,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 128,
    seed: int = 0,
    recipe: Recipe | None = None,
    mesh: Mesh | None = None,
) -> CheckReport:
    """Holds each framework's gradients in float32 and in bfloat16 against its own in float64.

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format. Gets a head for the data's
            classes.
        dtypes: Precisions, of `float32` and `bfloat16`; `float64` is what they are compared with.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Images; sums of too few bits go wrong in large batches.
        seed: The seed of random parameters, of the batch and of masks.
        recipe: Data, augmentation, rates, objective, accumulation and how the model is run; the other fields are
            replaced. By default that of `check_training`.
        mesh: The devices over which Flax splits batch and parameters, as from `vit_jax.sharding.make_mesh`; None for
            the first one.

    Raises:
        ValueError: An unknown name or precision, a model that wouldn't fit in memory or doesn't fit the data.
        CheckpointError: Not a readable checkpoint.
    """
    check_dtypes(dtypes)
    narrow = [dtype for dtype in dtypes if dtype != "float64"]
    if not narrow:
        raise ValueError(f"dtypes: got {', '.join(dtypes)}, expected float32 or bfloat16, to be held against float64")
    source, target, recipe, frozen = open_training(
        model,
        recipe,
        steps=1,
        depth=depth,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        work="backward",
    )
    # Every precision starts from what float32 can hold.
    tensors = {name: np.asarray(value).astype(np.float32) for name, value in target.tensors.items()}
    with closing(batches_of(source, recipe, target.config)) as batches:
        batch = next(batches)

    def gradients(dtype: str) -> Gradients:
        run = dataclasses.replace(recipe, precision=dtype)
        return _gradients(run, target.config, tensors, frozen, batch, mesh)

    exact, averages, precisions = gradients("float64"), _averages(tensors), []
    for dtype in narrow:
        parts = _parts(gradients(dtype), exact, dtype, with_statistics=any(map(is_statistic, tensors)))
        precisions.append(PrecisionReport(dtype=dtype, parts=(*parts, *averages)))
    settings = {"accumulate": recipe.accumulate} | dataclasses.asdict(recipe.execution)
    return CheckReport.of("precision", target, seed, precisions, target.faults, **settings)


def _gradients(
    recipe: Recipe,
    config: Config,
    tensors: Tensors,
    frozen: Mapping[str, Checkpoint],
    batch: Batch,
    mesh: Mesh | None,
) -> Gradients:
    """Those of the first step in either framework, in the order of the backward pass."""
    with exact_jax(DTYPES[recipe.precision]):
        flax = FlaxRun(recipe, config, tensors, frozen, mesh).gradients(batch)
    found = TorchRun(recipe, config, tensors, frozen).gradients(batch)
    return {
        "flax": {name: flax[name] for name in reversed(found)},
        "torch": {name: found[name] for name in reversed(found)},
    }


def _parts(found: Gradients, exact: Gradients, dtype: str, *, with_statistics: bool) -> list[Part]:
    """Errors and norms of each framework's gradients, one after the other."""
    error, norm = (PRECISION_IN_TRAINING,) * 2 if with_statistics else (PRECISION, PRECISION_NORM)
    parts = []
    for side, gradients in found.items():
        scales = layer_scales(exact[side])
        # Such as that of a bias before BatchNorm: its norm is that of what rounding leaves.
        zero = {name for name, value in _norms(exact[side]).items() if value <= _ZERO * scales.get(name, 0.0)}
        norms, exact_norms = _norms(gradients, zero), _norms(exact[side], zero)
        parts += [
            Part.of(f"{side} gradients", gradients, exact[side], error[dtype].limit, scales),
            Part.of(f"{side} norms", norms, exact_norms, norm[dtype].limit, scales),
        ]
    return parts


def _norms(gradients: Tensors, without: Collection[str] = ()) -> Tensors:
    return {
        name: np.asarray(np.linalg.norm(value.astype(np.float64)))
        for name, value in gradients.items()
        if name not in without
    }


def _averages(tensors: Tensors) -> list[Part]:
    """What each framework's average of some elements of each tensor is after many steps."""
    start = {name: np.ravel(value)[:_ELEMENTS] for name, value in tensors.items()}
    exact = {name: value.astype(np.float64) for name, value in start.items()}
    flax = {name: jnp.asarray(value) for name, value in start.items()}
    pytorch = {name: vit_torch.state_dict.from_numpy(value.copy()) for name, value in start.items()}
    average = jax.jit(vit_jax.train_step.average)
    for step in range(_UPDATES):
        factor = np.float32(1 + 0.1 * math.cos(step))
        values = {name: value * factor for name, value in start.items()}
        exact = {name: value + _SHARE * (values[name] - value) for name, value in exact.items()}
        flax = average(flax, values, np.float32(_SHARE))
        given = {name: vit_torch.state_dict.from_numpy(value) for name, value in values.items()}
        pytorch = vit_torch.train_step.average(pytorch, given, _SHARE)
    sides = {
        "flax": {name: np.asarray(value) for name, value in flax.items()},
        "torch": {name: vit_torch.state_dict.to_numpy(value) for name, value in pytorch.items()},
    }
    return [Part.of(f"{side} average", found, exact, PRECISION_AVERAGE.limit) for side, found in sides.items()]
