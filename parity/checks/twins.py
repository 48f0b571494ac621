"""Both frameworks' models of one config, from the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax import nnx

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict

from ..checkpoints.shapes import is_statistic
from ..compare import not_identical
from ..configs import Config, Execution
from .parameters import Inputs

if TYPE_CHECKING:
    from vit_jax.models import Model as FlaxModel
    from vit_torch.models import Model as TorchModel

DTYPES: dict[str, Any] = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}

Tensors = Mapping[str, np.ndarray]
# Changes the PyTorch model before it runs, to see whether a check notices.
Plant = Callable[["TorchModel"], None]


@contextmanager
def exact_jax(dtype: Any) -> Iterator[None]:
    """JAX with float64 where the type asks for it, and with matmuls that aren't rounded to fewer bits."""
    with jax.enable_x64(np.dtype(dtype) == np.float64), jax.default_matmul_precision("highest"):
        yield


def flax_model(config: Config, tensors: Tensors, execution: Execution) -> tuple[FlaxModel, list[str]]:
    """The model, and the tensors that it doesn't hold bit for bit; to be called under `exact_jax`."""
    model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(params=0), execution=execution))
    model.eval()
    vit_jax.state_dict.load_state_dict(model, tensors)
    return model, [f"flax: {name}" for name in not_identical(vit_jax.state_dict.state_dict(model), tensors)]


def torch_model(
    config: Config, tensors: Tensors, execution: Execution, plant: Plant | None
) -> tuple[TorchModel, list[str]]:
    """As `flax_model`, after the planted error if there is one."""
    model = vit_torch.create_model(config, device="meta", execution=execution).eval()
    vit_torch.state_dict.load_state_dict(model, tensors)
    if plant is not None:
        with torch.no_grad():
            plant(model)
    return model, [f"torch: {name}" for name in not_identical(vit_torch.state_dict.state_dict(model), tensors)]


def flax_inputs(inputs: Inputs, dtype: Any) -> list[jax.Array]:
    """Inputs as Flax takes them, those of floats in a precision."""
    return [jnp.asarray(in_precision(value, dtype)) for value in inputs.values()]


def torch_inputs(inputs: Inputs, dtype: Any) -> list[torch.Tensor]:
    """Inputs as PyTorch takes them: images (b, c, h, w), and those of floats in a precision."""
    given = (in_precision(value, dtype) for value in inputs.values())
    return [vit_torch.state_dict.from_numpy(channels_first(value)) for value in given]


def in_precision(value: np.ndarray, dtype: Any) -> np.ndarray:
    """An array of floats in a precision; one of integers as it is."""
    return value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value


def channels_first(value: np.ndarray) -> np.ndarray:
    """An array of floats with four axes, which is (b, h, w, c), as PyTorch takes it; any other as it is."""
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 and jnp.issubdtype(value.dtype, jnp.floating) else value


def channels_last(value: Any) -> Any:
    """What PyTorch models take and return with four axes is (b, c, h, w), and becomes (b, h, w, c); others stay."""
    return value.swapaxes(1, 2).swapaxes(2, 3) if value.ndim == 4 else value


def precision_of(tensors: Tensors) -> Any:
    """The type of a model's parameters; its statistics may be of another."""
    return next(value.dtype for name, value in tensors.items() if not is_statistic(name))


def torch_images(images: np.ndarray, dtype: Any) -> torch.Tensor:
    """Images (b, h, w, c) as PyTorch takes them."""
    return vit_torch.state_dict.from_numpy(images.astype(dtype).transpose(0, 3, 1, 2))
