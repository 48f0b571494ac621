"""Models by name. Twin: `vit_jax/models/__init__.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

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
    device: torch.device | str | None = None,
    execution: Execution = Execution(),
    **overrides: Any,
) -> Model:
    """A model with new parameters, float32, in training mode.

    Args:
        name: A registered name (`list_models` has them), or a config.
        device: Where the parameters live; `meta` allocates none.
        execution: How to run it.
        overrides: Config fields to replace, such as `num_classes=10`.

    Raises:
        ValueError: Unknown name or field, or fields that make no model; weights are asked for, in timm's words or by
            the name of a path or a repository, which `load` takes.
    """
    config = requested(name, overrides, package="vit_torch")
    with torch.device(device or torch.get_default_device()):
        return MODELS[configs.family(config)](config, execution=execution)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes and that match a shell-style pattern, such as `vit_base*`, sorted."""
    return configs.names(pattern)
