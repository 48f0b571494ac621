"""Gradients in float32 and in bfloat16 are those of float64 but for rounding, and what rounds too much is noticed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vit_jax.layers.linear
import vit_jax.train_step
import vit_torch.layers.linear
import vit_torch.train_step
from benchmarks import reduced
from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checkpoints.shapes import is_statistic
from parity.checks import check_precision
from parity.checks.training import recipe_of
from parity.configs import Execution, VitConfig

# 128 images have 32,768 tokens, which is as many as 167 of 224 x 224 in patches of 16.
SMALL = configs.get("vit_digits", image_size=16, patch_size=1, depth=1, embed_dim=32, num_heads=2, mlp_dim=64)
OPTIONS = reduced.representatives(list(reduced.distinct_options(configs.names(), 2)))
SIDES = ("flax", "torch")


def test_gradients_are_those_of_float64():
    report = check_precision(SMALL)
    assert report.passed, report.failures
    assert report.level == "precision"
    kinds = (f"{side} {kind}" for side in SIDES for kind in ("gradients", "norms"))
    assert report.part_names == (*kinds, "flax average", "torch average")
    # Every parameter's, in both: fewer bits have another error.
    for side in SIDES:
        for row, (wide, narrow) in report.rows(f"{side} gradients").items():
            assert 0 < wide.relative_l2 < narrow.relative_l2, row


@pytest.fixture
def failures(monkeypatch):
    """The parts that fail after a change of both twins."""

    def found(*changes, batch_size=128):
        for module, name, value in changes:
            monkeypatch.setattr(module, name, value)
        report = check_precision(SMALL, dtypes=["bfloat16"], batch_size=batch_size)
        return [part.name for one in report.precisions for part in one.parts if not part.passed], report

    return found


def test_biases_that_are_summed_in_bfloat16_are_noticed(failures):
    def flax(x, bias):
        return x if bias is None else x + bias[...].astype(x.dtype)

    def pytorch(self, x):
        x = torch.nn.functional.linear(x.to(self.weight.dtype), self.weight)
        return (x + _SummedInBfloat16.apply(self.bias, x)).unflatten(-1, self.out_axes)

    parts, report = failures(
        (vit_jax.layers.linear, "add_bias", flax), (vit_torch.layers.linear.Linear, "forward", pytorch)
    )
    assert set(parts) == {f"{side} {kind}" for side in SIDES for kind in ("gradients", "norms")}, report.failures
    for side in SIDES:
        assert report["bfloat16"][f"{side} norms"].worst.name.endswith(".bias")


class _SummedInBfloat16(torch.autograd.Function):
    """A bias beside tokens, whose gradient is a running sum in the tokens' type."""

    @staticmethod
    def forward(ctx, bias, x):
        ctx.dtype = bias.dtype
        return bias.to(x.dtype).expand(x.shape)

    @staticmethod
    def backward(ctx, grad):
        total = torch.zeros_like(grad.flatten(0, -2)[0])
        for rows in grad.flatten(0, -2).unbind():
            total += rows
        return total.to(ctx.dtype), None


def test_norms_that_are_cast_are_noticed(failures):
    def cast(name, shape):
        return True

    parts, report = failures((vit_jax.train_step, "is_cast", cast), (vit_torch.train_step, "is_cast", cast))
    assert set(parts) == {f"{side} {kind}" for side in SIDES for kind in ("gradients", "norms")}, report.failures


def test_an_average_that_is_biased_is_noticed(failures):
    def flax(ema, values, share):
        return {name: ema[name] * (1 - share) + values[name] * share for name in ema}

    def pytorch(ema, values, share):
        return {name: ema[name] * (1 - share) + values[name] * share for name in ema}

    changes = (vit_jax.train_step, "average", flax), (vit_torch.train_step, "average", pytorch)
    parts, report = failures(*changes, batch_size=2)
    assert parts == ["flax average", "torch average"], report.failures


def test_only_float64_has_nothing_to_be_held_against():
    with pytest.raises(ValueError, match="dtypes: got float64, expected float32 or bfloat16"):
        check_precision(SMALL, dtypes=["float64"])


# All of them take 8 minutes of two processors: CONTRIBUTING has the command, docs/precision.md the last result.
EVERY = "VIT_PARITY_EVERY" in os.environ


@pytest.mark.sweep
@pytest.mark.parametrize("config", OPTIONS if EVERY else OPTIONS[::3], ids=lambda config: type(config).__name__)
def test_every_option(config):
    """On about as many tokens as 128 images of 224 x 224 in patches of 16 have; of a hierarchy, in its first map.

    What bfloat16 does to a model of small convolutions with BatchNorm is above every limit that would show a mistake
    (docs/resnet.md has the figures): only float32 is asked of it.
    """
    tokens = 35 if isinstance(config, VitConfig) else math.prod(config.grid_sizes[0])
    dtypes = ["float32"] if any(map(is_statistic, parameter_shapes(config))) else ["float32", "bfloat16"]
    report = check_precision(config, batch_size=min(2 * math.ceil(64 * 196 / tokens), 720), dtypes=dtypes)
    assert report.passed, report.failures


WAYS = {
    "scan": {"execution": Execution(scan=True)},
    "remat": {"execution": Execution(remat="block")},
    "scan dots": {"execution": Execution(scan=True, remat="dots")},
    "reference": {"execution": Execution(attention="reference")},
    "accumulate": {"accumulate": 4},
}


@pytest.mark.sweep
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_it(way):
    config = configs.replace(SMALL, depth=3)
    report = check_precision(config, recipe=dataclasses.replace(recipe_of(config), **WAYS[way]))
    assert report.passed, report.failures


@pytest.mark.sweep
def test_every_mesh():
    """Between devices too: by data, by parameters, and by both and heads."""
    meshes = ("1x1x1", "8x1x1", "1x8x1", "2x2x2")
    worker = Path(__file__).with_name("precision_worker.py")
    done = subprocess.run([sys.executable, str(worker), *meshes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(meshes) + 1
    assert {name: one["failures"] for name, one in found.items() if one["failures"]} == {}
