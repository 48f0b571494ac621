"""Small files of every class of transformers, made without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from parity.checkpoints.formats.huggingface.architecture import Architecture
from parity.checkpoints.formats.huggingface.registry import ARCHITECTURES
from parity.checkpoints.formats.translate import fill, their_shapes
from parity.checks.parameters import random_parameters

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The two variants of a class differ in more than its name.
NAMES = [f"{kind.name}-{number}" for number, kind in enumerate(ARCHITECTURES)]


def settings(kind: Architecture) -> dict[str, Any]:
    """A small `config.json` of a class."""
    tower: dict[str, Any] = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=8)
    tower |= dict(num_patches=9) if kind.name.startswith("Siglip2") else dict(image_size=24)
    tower |= dict(mlp_ratio=3) if kind.name.startswith("Dinov2") else dict(intermediate_size=40)
    if kind.model_type in ("swin", "swinv2"):
        # Maps of 6 x 6 and 3 x 3.
        tower = dict(embed_dim=8, depths=[2, 3], num_heads=[1, 2], mlp_ratio=3.0, window_size=3, image_size=24)
    if kind.model_type in ("pvt_v2", "segformer"):
        tower = dict(
            hidden_sizes=[8, 12], depths=[2, 1], num_attention_heads=[1, 2], mlp_ratios=[3, 2], sr_ratios=[2, 1]
        )
    if kind.model_type == "resnet":
        tower = dict(embedding_size=4, hidden_sizes=[16, 32], depths=[2, 1])
    if kind.model_type == "mobilevit":
        tower = dict(neck_hidden_sizes=[8, 8, 12, 16, 16, 24, 20], hidden_sizes=[8, 12, 16], num_attention_heads=2)
    if kind.model_type == "mobilevitv2":
        tower = dict(width_multiplier=0.125, n_attn_blocks=[1, 2, 1], ffn_multiplier=2)
    if "use_swiglu_ffn" in kind.expected:
        tower |= dict(kind.expected)
    data = {"architectures": [kind.name], "model_type": kind.model_type}
    data |= {"id2label": {"0": "cat", "1": "dog", "2": "newt"}} if kind.labels else {}
    return data | ({"vision_config": tower} if kind.nested else tower)


def tensors_of(kind: Architecture, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    config = kind.config(data)
    shapes = their_shapes(fill(kind.entries, config, source=kind.name))
    shapes |= {kind.prefix + name: shape for name, (shape, _) in kind.added(config).items()}
    return {name: np.asarray(value, np.float32) for name, value in random_parameters(shapes).items()}


def saved(path: Path, data: Mapping[str, Any], tensors: dict[str, np.ndarray], **documents: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text(json.dumps(data))
    for name, document in documents.items():
        (path / f"{name}.json").write_text(json.dumps(document))
    save_file(tensors, path / WEIGHTS)
    return path


def made(path: Path, name: str = "ViTForImageClassification", **changes: Any) -> Path:
    """A file of a class, with some of its settings changed after its tensors are made."""
    kind = next(kind for kind in ARCHITECTURES if kind.name == name)
    data = settings(kind)
    return saved(path, data | changes, tensors_of(kind, data))


def changed(path: Path, change: Mapping[str, np.ndarray | None]) -> Path:
    tensors = {name: value for name, value in (load_file(path / WEIGHTS) | dict(change)).items() if value is not None}
    save_file(tensors, path / WEIGHTS)
    return path
