"""Configs of models and runs: frozen dataclasses of standard-library types, and the registry of named models."""

from .base import Input, ModelConfig
from .execution import Execution
from .preprocessing import Preprocessing
from .pretrained import hub_ids
from .registry import Config, close_match, family, from_dict, get, name_of, names, replace, to_dict
from .rope import Rope
from .vit import VitConfig

__all__ = [
    "Config",
    "Execution",
    "Input",
    "ModelConfig",
    "Preprocessing",
    "Rope",
    "VitConfig",
    "close_match",
    "family",
    "from_dict",
    "get",
    "hub_ids",
    "name_of",
    "names",
    "replace",
    "to_dict",
]
