"""Planted errors are found: where they are, and what they are."""

from __future__ import annotations

import pytest
import torch

from benchmarks.plants import MODEL, PLANTS
from parity import checkpoints, configs
from parity.checks import random_parameters
from parity.checks.twins import torch_model
from parity.configs import Execution
from parity.diagnosis.diff import diff
from parity.tolerances import USUAL_IN_FLOAT32

# What a comparison of the logits in float32 at 1e-3 lets through.
UNSEEN = {"norm_eps", "norm_eps_of_final_norm", "gelu_kind", "float32_norm", "tf32", "float32_softmax"}


@pytest.fixture(scope="module")
def model():
    config = configs.get(MODEL)
    tensors = random_parameters(checkpoints.parameter_shapes(config))

    def make(plant=None):
        return torch_model(config, tensors, Execution(), plant)[0]

    return make


@pytest.mark.parametrize("name", PLANTS)
def test_place_and_cause_are_found(name, model):
    plant = PLANTS[name]
    torch.manual_seed(0)  # of dropout
    report = diff(model(), model(plant.apply))
    assert not report.passed
    assert report.place.left == plant.at
    assert report.verdict is not None, report.lines
    assert report.verdict.trial.cause == plant.cause
    assert report.verdict.trial.at_place < report.place.found.relative_l2 / 100
    # The cause is of one place, and nothing else is wrong but what TF32's own rounding leaves.
    assert not report.verdict.everywhere
    assert (report.verdict.next_place is None) == (name != "tf32")


@pytest.mark.parametrize("name", PLANTS)
def test_what_float32_at_a_thousandth_lets_through(name, model):
    output = diff(model(), model(PLANTS[name].apply), dtype="float32", diagnose=False).output
    assert (max(output.relative_l2, output.max_abs) <= USUAL_IN_FLOAT32) == (name in UNSEEN)


def test_there_are_enough_of_them():
    assert len(PLANTS) >= 14
    assert len(UNSEEN) >= 4
    assert len({plant.cause for plant in PLANTS.values()}) >= 10


def test_models_without_a_plant_are_the_same_in_both_frameworks():
    report = diff(MODEL, MODEL)
    assert report.passed, report.lines
    assert (report.left, report.right) == (MODEL, MODEL)
    assert not report.trials
    assert not report.comparison.only_left
    assert not report.comparison.only_right


def test_a_mistake_in_every_block_is_said_to_be_everywhere():
    # Flax on the left: the hypotheses are tried on its twin.
    report = diff(f"flax:{MODEL}", configs.get(MODEL, act="gelu_tanh"))
    assert report.place.left == "blocks.0.mlp.fc2:input"
    assert report.verdict.everywhere
    assert report.verdict.trial.text == "gelu_tanh for gelu"
    assert report.verdict.at_output <= report.tolerance
    assert report.verdict.next_place is None
    assert report.notes == ("config: act: gelu and gelu_tanh",)


def test_of_two_mistakes_the_second_is_named_too(model):
    def plant(planted):
        planted.blocks[0].norm2.eps = 1e-5
        planted.blocks[2].mlp.act = "gelu_tanh"

    report = diff(model(), model(plant))
    assert report.place.left == "blocks.0.norm2"
    assert (report.verdict.trial.cause, report.verdict.trial.path) == ("norm_eps", "blocks.0.norm2")
    assert report.verdict.next_place == "blocks.2.mlp.fc2:input"


def test_what_is_no_known_mistake_has_no_cause(model):
    def plant(planted):
        planted.blocks[1].attn.proj.weight[3, 5] += 0.1

    report = diff(model(), model(plant))
    assert report.place.left == "blocks.1.attn.proj"
    assert report.trials
    assert report.verdict is None
    assert "parameters that differ: blocks.1.attn.proj.weight" in report.notes
    assert any(line.startswith("cause: none of the") for line in report.lines)
