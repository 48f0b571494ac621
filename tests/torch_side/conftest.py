"""Small models with every parameter random: zero-initialised ones would hide mistakes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import vit_torch
from parity.configs import Execution
from vit_torch.models import Model
from vit_torch.state_dict import canonical_shapes, load_state_dict


@pytest.fixture
def make_model() -> Callable[..., Model]:
    def make(
        name: str = "vit_test",
        *,
        dtype: torch.dtype = torch.float32,
        execution: Execution = Execution(),
        **overrides: object,
    ) -> Model:
        model = vit_torch.create_model(name, device="meta", execution=execution, **overrides)
        rng = np.random.default_rng(0)
        values = {key: rng.normal(0, 0.3, shape) for key, shape in canonical_shapes(model).items()}
        # A variance is positive.
        load_state_dict(model, {k: np.abs(v) if k.endswith("running_var") else v for k, v in values.items()})
        return model.to(dtype).eval()

    return make


@pytest.fixture
def make_images() -> Callable[..., torch.Tensor]:
    def make(model: Model, batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        shape = (batch, model.config.in_chans, *model.config.image_size)
        return torch.from_numpy(np.random.default_rng(1).normal(size=shape)).to(dtype)

    return make
