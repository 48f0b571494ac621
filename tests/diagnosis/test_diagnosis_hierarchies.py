"""Errors that ports of hierarchies have are found: where they are, and what they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

import vit_torch.layers.window as window
from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checks import random_parameters
from parity.checks.twins import torch_model
from parity.configs import Execution
from parity.configs.pvt import PvtConfig
from parity.configs.swin import SwinConfig
from parity.diagnosis.diff import diff

SIZES = dict(embed_dim=12, mlp_dim=20, depths=(2, 2), num_heads=(2, 3), window_sizes=(4, 3), num_classes=7)
FIRST = SwinConfig.of(configs.get("swin_tiny_patch4_window7_224", **SIZES, image_size=(60, 52)))
SECOND = SwinConfig.of(configs.get("swinv2_tiny_window8_256", **SIZES, image_size=(60, 52)))
PVT = PvtConfig.of(configs.get("pvt_v2_b1").narrowed())
PVT = configs.replace(PVT, image_size=(60, 52))
LINEAR = configs.replace(PVT, linear=True)


class Plant(NamedTuple):
    """A config, the module that is wrong, the cause that is to be named, words of its text, and the change."""

    config: configs.Config
    path: str
    cause: str
    text: str
    apply: Callable[[Any], None]


def other_shift(module: Any) -> None:
    """Written as a port would: the roll has the other sign."""

    def forward(x: torch.Tensor, **given: Any) -> torch.Tensor:
        size, (down, across) = (x.shape[1], x.shape[2]), module.shift
        parts = window.cut_windows(torch.roll(x, (down, across), (1, 2)), module.window_size, (0, 0))
        whole = window.padded(size, module.window_size)
        apart = torch.tensor(window.shift_bias(whole, module.window_size, module.shift, -100.0)).to(x)
        bias = (module._positions() + apart[:, None]).repeat(x.shape[0], 1, 1, 1)
        parts = super(window.WindowAttention, module).forward(parts, bias=bias)
        return torch.roll(window.join_windows(parts, size, module.window_size, (0, 0)), (-down, -across), (1, 2))

    module.forward = forward


def swapped_index(module: Any) -> None:
    own = module._of_pairs
    height, width = module.window_size
    pattern = "nh (a b) (c d) -> nh (b a) (d c)"
    module._of_pairs = lambda table: rearrange(own(table), pattern, a=height, b=width, c=height, d=width)


def from_key_to_query(module: Any) -> None:
    own = module._of_pairs
    module._of_pairs = lambda table: own(table).swapaxes(1, 2)


def row_by_row(module: Any) -> None:
    """The order of timm's first port, and of most: upper left, upper right, lower left, lower right."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, i::2, j::2] for i in range(2) for j in range(2)]
        return module.reduction(module.norm(torch.cat(parts, -1)))

    module.forward = forward


def same_padding(module: Any) -> None:
    """TensorFlow's: of the one column of zeros that an even side needs, none is in front."""
    module.padding = (0, 0)
    module.register_forward_pre_hook(lambda module, args: (F.pad(args[0], (0, 1, 0, 1)),))


ATTENTION, MERGING = "layers.0.blocks.1.attn", "layers.1.downsample"
PLANTS = {
    "shift_sign": Plant(FIRST, ATTENTION, "windows", "moved the other way", other_shift),
    "no_shift": Plant(FIRST, ATTENTION, "windows", "not moved", partial(setattr)),
    "mask_value": Plant(
        SECOND, ATTENTION, "windows", "a mask of -200 or less", lambda m: setattr(m, "shift_mask", -200)
    ),
    "no_mask": Plant(FIRST, ATTENTION, "windows", "a mask of nothing", lambda m: setattr(m, "shift_mask", -1e-300)),
    "padding_order": Plant(FIRST, ATTENTION, "windows", "filled up before", lambda m: setattr(m, "pad_first", True)),
    "index_transposed": Plant(FIRST, ATTENTION, "relative_positions", "across before down", swapped_index),
    "index_reversed": Plant(FIRST, ATTENTION, "relative_positions", "from key to query", from_key_to_query),
    "merge_order": Plant(FIRST, MERGING, "merge_order", "(down across c)", row_by_row),
    "logit_scale": Plant(
        SECOND, ATTENTION, "logit_scale", "without their bound", lambda m: setattr(m, "max_logit_scale", math.inf)
    ),
    "norm_eps": Plant(FIRST, "layers.1.blocks.0.norm1", "norm_eps", "epsilon 1e-06", lambda m: setattr(m, "eps", 1e-6)),
    "embed_eps": Plant(PVT, "stages.1.downsample.norm", "norm_eps", "epsilon 1e-06", lambda m: setattr(m, "eps", 1e-6)),
    "padding_side": Plant(PVT, "stages.1.downsample.proj", "conv_padding", "TensorFlow's SAME", same_padding),
    "reduction_norm": Plant(
        PVT, "stages.0.blocks.0.attn", "reduction", "no norm", lambda m: setattr(m, "norm", nn.Identity())
    ),
    "linear_relu": Plant(LINEAR, "stages.0.blocks.1.mlp", "reduction", "no ReLU", lambda m: setattr(m, "relu", False)),
}
PLANTS["no_shift"] = PLANTS["no_shift"]._replace(apply=lambda module: setattr(module, "shift", (0, 0)))


# The core has one of each cause.
FIRST_OF_CAUSE = {plant.cause: name for name, plant in reversed(PLANTS.items())}
NAMES = [
    pytest.param(name, marks=() if name in FIRST_OF_CAUSE.values() else pytest.mark.sweep, id=name) for name in PLANTS
]


@pytest.mark.parametrize("name", NAMES)
def test_place_and_cause_are_found(name):
    plant = PLANTS[name]
    config = plant.config
    if name == "padding_side":  # where the two differ: a map with even sides
        config = configs.replace(config, image_size=(64, 48))
    tensors = random_parameters(parameter_shapes(config))
    if name in ("logit_scale", "mask_value"):  # at scores of 100 a mask of -100 lets some through
        tensors = {key: value + 5 * key.endswith("logit_scale") for key, value in tensors.items()}

    def planted(model: nn.Module) -> None:
        plant.apply(model.get_submodule(plant.path))

    left, right = (torch_model(config, tensors, Execution(), change)[0] for change in (None, planted))
    report = diff(left, right)
    assert not report.passed
    assert report.verdict is not None, report.lines
    assert report.verdict.trial.cause == plant.cause, report.lines
    assert plant.text in report.verdict.trial.text
    assert not report.verdict.everywhere


def test_there_are_enough_of_them():
    assert len(PLANTS) >= 12
    assert len({plant.cause for plant in PLANTS.values()}) >= 6
