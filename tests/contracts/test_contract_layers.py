"""Layers know no model: none imports a config."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from parity.configs import Config

ROOT = Path(__file__).parents[2]
FILES = sorted(file for package in ("vit_jax", "vit_torch") for file in (ROOT / package / "layers").glob("*.py"))
# How a layer is run isn't what it is.
EXECUTION = "parity.configs.Execution"


def violations(source: str, package: str = "vit_torch.layers") -> list[str]:
    """What a layer imports of models and of their configs."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("parity.configs")]
        if isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                whole = f"{name}.{alias.name}"
                if ".models" in f".{whole}" or (whole.startswith("parity.configs") and is_config(name, alias.name)):
                    found.append(whole)
    return [name for name in found if name != EXECUTION]


def is_config(module: str, name: str) -> bool:
    """A dataclass of settings, several of them, or a module that has some."""
    value = getattr(importlib.import_module(module), name, None)
    if value is None or isinstance(value, ModuleType):
        return True
    kinds = [kind for kind in (value, *get_args(value)) if isinstance(kind, type)]
    return any(dataclasses.is_dataclass(kind) or issubclass(kind, Config) for kind in kinds)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_layer_imports_a_models_config(file):
    assert violations(file.read_text(), f"{file.parts[-3]}.layers") == []


@pytest.mark.parametrize(
    "line",
    [
        "from parity.configs import VitConfig",
        "from parity.configs import Config",
        "from parity.configs import Execution, VitConfig",
        "from parity.configs.vit import VitConfig",
        "from parity.configs.stem import StemLayer",
        "from parity.configs.rope import Rope",
        "from parity.configs.preprocessing import Preprocessing",
        "from parity.configs import vit",
        "from parity import configs",
        "import parity.configs",
        "from ..models import Model",
        "from ..models.vit import VisionTransformer",
        "from .. import models",
        "from vit_torch.models.vit_parts import norm_of",
        "def f():\n    from parity.configs import VitConfig",
    ],
)
def test_each_import_of_a_config_is_found(line):
    assert violations(line)


@pytest.mark.parametrize(
    "line",
    [
        "from parity.configs import Execution",
        "from parity.configs.rope import Indexing, coordinates",
        "from parity.configs.rel_pos import relative_position_index",
        "from parity.checkpoints.resize import resize_matrix",
        "from .. import random",
        "from .norm import LayerNorm",
    ],
)
def test_what_a_layer_may_import(line):
    assert violations(line) == []
