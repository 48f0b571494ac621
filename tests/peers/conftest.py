"""timm's models, holding our parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import timm
import torch

from vit_torch.state import from_numpy


@pytest.fixture
def make_peer() -> Callable[..., torch.nn.Module]:
    def make(name: str, tensors: Mapping[str, np.ndarray], **arguments: object) -> torch.nn.Module:
        """A timm model in evaluation mode; names and shapes must be exactly ours."""
        with torch.device("meta"):
            model = timm.create_model(name, **arguments)
        model.load_state_dict({key: from_numpy(value) for key, value in tensors.items()}, strict=True, assign=True)
        return model.eval()

    return make
