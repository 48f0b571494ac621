"""Models by name. Twin: `vit_torch/models/__init__.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from parity import configs
from parity.configs import Config, Execution
from parity.configs.pretrained import requested

from .base import Model
from .mobilevit import MobileVit
from .pvt import PyramidVisionTransformer
from .resnet import ResNet
from .swin import SwinTransformer
from .vit import VisionTransformer

# The class of each config family.
MODELS: dict[str, Callable[..., Model]] = {
    "vit": VisionTransformer,
    "swin": SwinTransformer,
    "pvt": PyramidVisionTransformer,
    "resnet": ResNet,
    "mobilevit": MobileVit,
}

__all__ = ["MODELS", "Model", "VisionTransformer", "create_model", "list_models"]


def create_model(
    name: str | Config,
    *,
    rngs: nnx.Rngs | None = None,
    execution: Execution = Execution(),
    **overrides: Any,
) -> Model:
    """A model with new parameters, float32, in training mode.

    Args:
        name: A registered name (`list_models` has them), or a config.
        rngs: The source of the initial values, and of the dropout stream where the config has a rate above 0, such as
            `nnx.Rngs(0)`; with `nnx.Rngs(params=0)` there is no stream, and training mode takes a key with each call.
        execution: How to run it.
        overrides: Config fields to replace, such as `num_classes=10`.

    Raises:
        ValueError: Unknown name or field, or fields that make no model; no `rngs`; weights are asked for, in timm's
            words or by the name of a path or a repository, which `load` takes.
    """
    config = requested(name, overrides, package="vit_jax")
    if rngs is None:  # after what timm's users write without it
        raise ValueError("rngs: got none, expected the source of the initial values, such as rngs=nnx.Rngs(0)")
    return MODELS[configs.family(config)](config, execution=execution, rngs=rngs)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes and that match a shell-style pattern, such as `vit_base*`, sorted."""
    return configs.names(pattern)
