"""Forward parity: both frameworks built from the same parameters, held against each other place by place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax import nnx

import vit_jax
import vit_jax.state
import vit_torch
import vit_torch.state

from .. import checkpoints, configs
from ..checkpoints import hub
from ..compare import compare, not_identical
from ..configs import Config, Execution
from .parameters import random_images, random_parameters
from .report import ForwardReport, PrecisionReport

if TYPE_CHECKING:
    from vit_torch.models import Model as TorchModel

DTYPES: dict[str, Any] = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}

Tensors = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]


def check_forward(
    model: str | Path | Config,
    *,
    dtypes: Sequence[str] = tuple(DTYPES),
    depth: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 2,
    seed: int = 0,
    images: np.ndarray | None = None,
    execution: Execution = Execution(),
    plant: Callable[[TorchModel], None] | None = None,
) -> ForwardReport:
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
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"dtypes: got {dtype!r}, expected of {', '.join(DTYPES)}")
    name, config, tensors, faults = _source(model, depth=depth, image_size=image_size, seed=seed)
    images = random_images(config, batch_size, seed) if images is None else images
    if not fits(config, len(images)):
        needed = required_bytes(config, len(images)) / 2**30
        raise ValueError(f"{name}: needs about {needed:.1f} GiB of memory; reduce depth, image_size or batch_size")
    precisions = []
    for dtype in dtypes:
        cast = {name: np.asarray(value).astype(DTYPES[dtype]) for name, value in tensors.items()}
        left, flax_faults = run_flax(config, cast, images, execution)
        right, torch_faults = run_torch(config, cast, images, execution, plant)
        faults += [f"{dtype} {fault}" for fault in (*flax_faults, *torch_faults)]
        precisions.append(PrecisionReport(dtype=dtype, comparison=compare(left, right)))
    return ForwardReport(
        name=name,
        config=config,
        batch_size=len(images),
        seed=seed,
        precisions=tuple(precisions),
        parameter_faults=tuple(faults),
    )


def required_bytes(config: Config, batch_size: int = 2) -> int:
    """Estimate of the memory that a float64 check takes at its peak.

    The tensors exist three times (source, cast and model), and one framework's activations at a time.
    """
    tokens = config.num_patches + config.num_prefix_tokens
    attention = 3 * config.num_heads * tokens**2
    activations = tokens * (12 * config.embed_dim + 4 * config.mlp_dim + config.depth * config.embed_dim)
    return 8 * (3 * checkpoints.parameter_count(config) + batch_size * (attention + activations))


def fits(config: Config, batch_size: int = 2, memory: int | None = None) -> bool:
    """Whether a float64 check takes less than `memory` bytes; by default two thirds of the machine's."""
    if memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 2 // 3
    return required_bytes(config, batch_size) <= memory


@contextmanager
def exact_jax(dtype: Any) -> Iterator[None]:
    """JAX with float64 where the type asks for it, and with matmuls that aren't rounded to fewer bits."""
    with jax.enable_x64(np.dtype(dtype) == np.float64), jax.default_matmul_precision("highest"):
        yield


def _source(
    model: str | Path | Config, *, depth: int | None, image_size: int | tuple[int, int] | None, seed: int
) -> tuple[str, Config, Tensors, list[str]]:
    """Name, config and tensors of what is to be checked, and what is wrong with how it loads."""
    if isinstance(model, Path) or (isinstance(model, str) and model not in configs.names() and _is_checkpoint(model)):
        return _checkpoint(Path(model), depth=depth, image_size=image_size)
    name = model if isinstance(model, str) else configs.name_of(model) or "a config"
    config = configs.get(model) if isinstance(model, str) else model
    config = config if depth is None else config.shortened(depth)
    config = config if image_size is None else configs.replace(config, image_size=image_size)
    return name, config, random_parameters(checkpoints.parameter_shapes(config), seed), []


def _is_checkpoint(model: str) -> bool:
    return model.startswith(hub.PREFIX) or Path(model).exists()


def _checkpoint(
    path: Path, *, depth: int | None, image_size: int | tuple[int, int] | None
) -> tuple[str, Config, Tensors, list[str]]:
    config, tensors = checkpoints.adapt(checkpoints.open_checkpoint(path), image_size=image_size)
    faults = _loading_faults(path, image_size, tensors)
    if depth is not None:
        config = config.shortened(depth)
        tensors = {name: tensors[name] for name in checkpoints.parameter_shapes(config)}
    return str(path), config, tensors, faults


def _loading_faults(path: Path, image_size: int | tuple[int, int] | None, tensors: Tensors) -> list[str]:
    """Tensors that either framework's `load` gives another value than the file has."""
    with exact_jax(np.float64):
        left = vit_jax.state.state_dict(vit_jax.load(path, image_size=image_size))
    faults = [f"vit_jax.load: {name}" for name in not_identical(left, tensors)]
    del left
    right = vit_torch.state.state_dict(vit_torch.load(path, image_size=image_size))
    return faults + [f"vit_torch.load: {name}" for name in not_identical(right, tensors)]


def run_flax(config: Config, tensors: Tensors, images: np.ndarray, execution: Execution) -> tuple[Outputs, list[str]]:
    """Outputs by place, and the tensors that the model doesn't hold bit for bit."""
    dtype = next(iter(tensors.values())).dtype
    with exact_jax(dtype):
        model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0), execution=execution))
        vit_jax.state.load_state_dict(model, tensors)
        faults = [f"flax: {name}" for name in not_identical(vit_jax.state.state_dict(model), tensors)]
        graphdef, state = nnx.split(model)
        run = jax.jit(lambda state, images: _outputs(nnx.merge(graphdef, state), images))
        outputs = run(state, jnp.asarray(images.astype(dtype)))
        return {place: np.asarray(value) for place, value in zip(_places(config), outputs, strict=True)}, faults


def run_torch(
    config: Config,
    tensors: Tensors,
    images: np.ndarray,
    execution: Execution,
    plant: Callable[[TorchModel], None] | None,
) -> tuple[Outputs, list[str]]:
    """As `run_flax`."""
    dtype = next(iter(tensors.values())).dtype
    model = vit_torch.create_model(config, device="meta", execution=execution).eval()
    vit_torch.state.load_state_dict(model, tensors)
    with torch.inference_mode():
        if plant is not None:
            plant(model)
        faults = [f"torch: {name}" for name in not_identical(vit_torch.state.state_dict(model), tensors)]
        outputs = _outputs(model, vit_torch.state.from_numpy(images.astype(dtype).transpose(0, 3, 1, 2)))
    arrays = (vit_torch.state.to_numpy(value) for value in outputs)
    return dict(zip(_places(config), arrays, strict=True)), faults


def _places(config: Config) -> list[str]:
    """Names of what is compared, in the order of the forward pass."""
    return ["patch_embed", *(f"blocks.{i}" for i in range(config.depth)), "forward_features", "logits"]


def _outputs(model: Any, images: Any) -> list[Any]:
    """What is compared; the same code for both frameworks."""
    blocks = model.forward_intermediates(images)
    features = model.forward_features(images)
    # As `model(images)` does, which would run the blocks once more.
    return [model.patch_embed(images), *blocks, features, model.forward_head(features)]
