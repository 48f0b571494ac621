"""What a run does as timm does it: the first values of each tensor, and the warm-up of the average."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from timm.utils import ModelEmaV3

from parity import configs, recipes
from parity.checkpoints import parameter_shapes
from parity.recipes.initial import InitialTensors
from parity.tolerances import FORMULA

# What differs by chance is rejected as another distribution once in a million times; there are hundreds of tensors.
CHANCE = 1e-6
SIZES = dict(embed_dim=192, depth=2, num_heads=3, num_classes=100)
MODELS = {
    "plain": ("vit_tiny_patch16_224", {}, {}),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 1e-3}, {"layer_scale_init": 1e-3}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}, {"reg_tokens": 4}),
}


def theirs(arguments: dict, mode: str) -> dict[str, np.ndarray]:
    torch.manual_seed(5)
    model = timm.models.VisionTransformer(weight_init=mode, **SIZES, **arguments)
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def is_drawn_alike(ours: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the numbers may come from one distribution; constants are to be equal."""
    if np.ptp(expected) == 0 or np.ptp(ours) == 0:
        return np.array_equal(ours, expected)
    return stats.ks_2samp(ours.ravel(), expected.ravel()).pvalue > CHANCE


@pytest.mark.parametrize("mode", ["", "jax", "moco"])
@pytest.mark.parametrize("kind", MODELS)
def test_first_values_are_drawn_as_timm_draws_them(kind, mode):
    name, arguments, changes = MODELS[kind]
    config = configs.get(name, **SIZES, mlp_dim=768, **changes)
    expected = theirs(arguments, mode)
    ours = InitialTensors(parameter_shapes(config), config, mode or "timm", 0)
    assert sorted(ours) == sorted(expected)
    assert [name for name in ours if not is_drawn_alike(ours[name], expected[name])] == []


@pytest.mark.parametrize(("mode", "other"), [("", "jax"), ("jax", "moco"), ("moco", "")])
def test_another_mode_is_noticed(mode, other):
    config = configs.get("vit_tiny_patch16_224", **SIZES, mlp_dim=768)
    expected, ours = theirs({}, mode), InitialTensors(parameter_shapes(config), config, other or "timm", 0)
    wrong = [name for name in ours if not is_drawn_alike(ours[name], expected[name])]
    assert "blocks.0.attn.qkv.weight" in wrong
    assert "head.weight" in wrong


def test_projections_of_moco_are_drawn_apart():
    config = configs.get("vit_tiny_patch16_224", **SIZES, mlp_dim=768)
    name = "blocks.1.attn.qkv.weight"
    ours, expected = InitialTensors(parameter_shapes(config), config, "moco", 0)[name], theirs({}, "moco")[name]
    for one, other in zip(np.split(ours, 3), np.split(expected, 3), strict=True):
        assert is_drawn_alike(one, other)


def test_the_warm_up_of_the_average_is_timms():
    recipe = recipes.get("digits", ema_decay=0.9998, ema_warmup="timm")
    theirs = ModelEmaV3(torch.nn.Linear(1, 1), decay=0.9998, use_warmup=True)
    for step in (0, 1, 2, 10, 1000, 10**6):
        # timm counts from 1.
        share = 1 - theirs.get_decay(step + 1)
        assert abs(recipes.average_share(step, recipe) / share - 1) <= FORMULA.limit
