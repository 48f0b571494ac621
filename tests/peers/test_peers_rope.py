"""Rotary positions by shortest and longest period, and normalised by one side, are timm's port of DINOv3's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3

import vit_torch.models.vit_parts
from parity import configs
from parity.compare import compare
from parity.configs import Rope
from parity.tolerances import ROPE_FLOAT32

GRID = (3, 5)
PERIODS = dict(min_period=0.5, max_period=20.0)


def ours(rope: Rope) -> dict[str, np.ndarray]:
    """Sine and cosine of every patch and angle, from float64."""
    config = configs.get("vit_test", rope=rope, embed_dim=96, num_heads=4)
    sin, cos = vit_torch.models.vit_parts.make_rope(config)(GRID, dtype=torch.float64, device=torch.device("cpu"))
    return {"sin": sin[:, 0].numpy(), "cos": cos[:, 0].numpy()}


def theirs(rope: Rope) -> dict[str, np.ndarray]:
    layer = RotaryEmbeddingDinoV3(
        24,
        temperature=rope.temperature,
        min_period=rope.min_period,
        max_period=rope.max_period,
        normalize_coords=rope.normalize_coords,
    )
    sin, cos = layer.get_embed(GRID).chunk(2, dim=-1)
    # Rotating halves, they are there twice.
    return {"sin": sin[:, :12].numpy(), "cos": cos[:, :12].numpy()}


@pytest.mark.parametrize("normalize", ["separate", "min", "max"])
@pytest.mark.parametrize("periods", [dict(temperature=100.0), PERIODS])
def test_the_same_angles(periods, normalize):
    rope = Rope(kind="centered", rotate_half=True, normalize_coords=normalize, **periods)
    found = compare(ours(rope), theirs(rope))
    assert found.ok(ROPE_FLOAT32.limit), found.worst


@pytest.mark.parametrize("change", [dict(max_period=21.0), dict(min_period=0.51), dict(normalize_coords="min")])
def test_the_comparison_can_fail(change):
    rope = Rope(kind="centered", rotate_half=True, normalize_coords="max", **PERIODS)
    other = configs.replace(rope, **change)
    assert not compare(ours(other), theirs(rope)).ok(1e3 * ROPE_FLOAT32.limit)
