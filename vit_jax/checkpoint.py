"""Models to and from checkpoints. Twin: `vit_torch/checkpoint.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity import checkpoints, configs
from parity.checkpoints import Checkpoint, adapt, open_to_load, parameter_count
from parity.configs import Config, Execution

from . import random
from .layers.drop import Stochastic
from .models import Model, create_model
from .sharding import parameter_shardings
from .state_dict import Place, load_state_dict, state_dict


def load(
    path: str | Path | Checkpoint,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: Any = None,
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
    rngs: nnx.Rngs | None = None,
    **fields: Any,
) -> Model:
    """The model of a checkpoint, in evaluation mode; an `AssumedWarning` says what had to be assumed of it.

    Args:
        path: Any checkpoint, `hf-hub:owner/name`, or what `parity.checkpoints.open_checkpoint` has opened, which can be
            told the file's own `image_size`.
        mesh: Where the parameters go, split by the rules of `vit_jax.sharding`; None for the default device.
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
        rngs: What the stream is forked from that the model draws from in training mode, where its config has a rate
            above 0: `nnx.Rngs(dropout=0)`. None for no stream; then training mode takes a key with each call.
        fields: Config fields that the file doesn't say, such as `num_heads=4`.

    Raises:
        ValueError: An unknown model, format, project or field.
        CheckpointError: Not a readable checkpoint, or tensors that don't fit, all in one report.
    """
    said: dict[str, Any] = dict(model=model, format=format, numerics=numerics, prefix=prefix, ignore=ignore)
    checkpoint = open_to_load(path, image_size=image_size, global_pool=global_pool, **said, **fields)
    sizes: dict[str, Any] = dict(image_size=image_size, patch_size=patch_size, num_classes=num_classes)
    exact = None if dtype is None else jnp.dtype(dtype)
    config, tensors = adapt(checkpoint, **sizes, global_pool=global_pool, dtype=exact)
    built = nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(params=0), execution=execution))
    place = _placer(parameter_shardings(built, mesh) if mesh is not None else {}, dtype)
    load_state_dict(built, tensors, source=str(checkpoint.path), place=place)
    built.eval()
    if isinstance(built, Stochastic) and built.draws:
        built.rngs = random.stream(rngs)
    return built


def _placer(shardings: Mapping[str, jax.sharding.Sharding], dtype: Any) -> Place:
    """What puts a parameter where it belongs; each device's part alone is read from the file."""

    def place(name: str, shape: tuple[int, ...], read: Callable[..., np.ndarray]) -> jax.Array:
        def part(index: tuple[slice, ...] | None = None) -> np.ndarray:
            value = read(index or ())
            return value if dtype is None else value.astype(jnp.dtype(dtype))

        if not shardings:
            return jnp.asarray(part())
        return jax.make_array_from_callback(shape, shardings[name], part)

    return place


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
    origin = {"framework": "flax", "parameters": parameter_count(model.config)}
    checkpoints.write(
        path,
        model.config,
        state_dict(model),
        name=name or configs.name_of(model.config),
        source=origin | dict(source or {}),
    )
