"""Models by name. Twin: `vit_torch/models/__init__.py`."""

from __future__ import annotations

from typing import Any

from flax import nnx

from parity import configs
from parity.configs import Config, Execution

from .vit import VisionTransformer

# The class of each config family.
MODELS = {"vit": VisionTransformer}

Model = VisionTransformer

__all__ = ["MODELS", "Model", "VisionTransformer", "create_model"]


def create_model(name: str | Config, *, rngs: nnx.Rngs, execution: Execution = Execution(), **overrides: Any) -> Model:
    """A model with new parameters, float32.

    Args:
        name: A registered name (`vit-parity models` lists them), or a config.
        rngs: Source of the initial values, such as `nnx.Rngs(0)`.
        execution: How to run it.
        overrides: Config fields to replace, such as `num_classes=10`.

    Raises:
        ValueError: Unknown name or field, or fields that make no model.
    """
    config = configs.get(name, **overrides) if isinstance(name, str) else configs.replace(name, **overrides)
    return MODELS[configs.family(config)](config, execution=execution, rngs=rngs)
