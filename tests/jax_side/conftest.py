"""Small models with every parameter random: zero-initialised ones would hide mistakes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flax import nnx

import vit_jax
from parity.configs import Config, Execution
from vit_jax.models import Model
from vit_jax.state_dict import canonical_shapes, load_state_dict


@pytest.fixture
def make_model() -> Callable[..., Model]:
    def make(
        which: str | Config = "vit_test",
        *,
        dtype: str = "float32",
        execution: Execution = Execution(),
        **overrides: object,
    ) -> Model:
        model = nnx.eval_shape(
            lambda: vit_jax.create_model(which, rngs=nnx.Rngs(params=0), execution=execution, **overrides)
        )
        rng = np.random.default_rng(0)
        shapes = canonical_shapes(model)
        values = {key: rng.normal(0, 0.3, shape).astype(dtype) for key, shape in shapes.items()}
        model.eval()
        # A variance is positive.
        load_state_dict(model, {k: np.abs(v) if k.endswith("running_var") else v for k, v in values.items()})
        return model

    return make


@pytest.fixture
def make_images() -> Callable[..., np.ndarray]:
    def make(model: Model, batch: int = 2, dtype: str = "float32") -> np.ndarray:
        shape = (batch, *model.config.image_size, model.config.in_chans)
        return np.random.default_rng(1).normal(size=shape).astype(dtype)

    return make
