"""Both frameworks' models of one config, from the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import ml_dtypes
import numpy as np
import torch
from flax import nnx

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict

from ..compare import not_identical
from ..configs import Config, Execution

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


def torch_images(images: np.ndarray, dtype: Any) -> torch.Tensor:
    """Images (b, h, w, c) as PyTorch takes them."""
    return vit_torch.state_dict.from_numpy(images.astype(dtype).transpose(0, 3, 1, 2))
