"""What the tests of foreign formats share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from parity import configs
from parity.checkpoints import Checkpoint, open_checkpoint, parameter_shapes
from parity.checks.parameters import random_parameters
from parity.compare import not_identical
from parity.configs import Config

# Nothing divides into anything else by accident: 12 tokens of 9 + prefix, 4 heads of 12, an MLP of 80.
SMALL = dict(image_size=24, patch_size=8, embed_dim=48, depth=2, num_heads=4, mlp_dim=80, num_classes=10)


def small(name: str, **fields: Any) -> Config:
    """A registered model at a small size."""
    return configs.get(name, **(SMALL | fields))


def parameters(config: Config) -> dict[str, np.ndarray]:
    shapes = parameter_shapes(config)
    return {name: value.astype(np.float32) for name, value in random_parameters(shapes).items()}


def round_trip(module: ModuleType, path: Path, config: Config, **options: Any) -> Checkpoint:
    """What is read back of what is written: the same tensors, and the format recognised."""
    tensors = parameters(config)
    module.write(path, config, tensors, **options)
    found = open_checkpoint(path)
    assert found.source["format"] == module.__name__.rpartition(".")[2]
    assert not_identical(dict(found.tensors), tensors) == ()
    assert found.tensors.shapes() == parameter_shapes(config)
    assert all(dtype == np.float32 for dtype in found.tensors.dtypes().values())
    return found


def without(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in tensors.items() if key != name}
