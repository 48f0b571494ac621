"""A run that stops in one framework and goes on in the other ends where the uninterrupted run ends.

100 steps of AdamW in float64 on digits, with augmentation, mixup, cutmix, dropout, drop path, layer-wise learning rates
and an average of the parameters; stopped after step 50.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import pytest
from training_runs import RECIPE, assert_same_losses, assert_same_state

import vit_jax.train
import vit_torch.train
from parity.bridge import convert_training, read_training
from parity.runs.metrics import read_metrics
from parity.tolerances import TRAINING_STATE

HALF = 50
OTHER = {"flax": "torch", "torch": "flax"}


def train(framework: str, directory: Path) -> None:
    if framework == "flax":
        vit_jax.train.train(RECIPE, directory, devices=jax.devices()[:1])
    else:
        vit_torch.train.train(RECIPE, directory)


def losses(directory: Path) -> list[float]:
    lines = [line for line in read_metrics(directory) if "train/loss" in line]
    assert [line["step"] for line in lines] == list(range(1, RECIPE.steps + 1))
    return [line["train/loss"] for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """By where it began and where it ended; each whole run keeps its checkpoint of step 50."""
    folder = tmp_path_factory.mktemp("runs")
    directories = {f"{first}-{last}": folder / f"{first}-{last}" for first in OTHER for last in OTHER}
    for first, other in OTHER.items():
        whole = directories[f"{first}-{first}"]
        train(first, whole)
        stopped = folder / f"{first}-stopped"
        shutil.copytree(whole, stopped)
        shutil.rmtree(stopped / "checkpoints" / str(RECIPE.steps))
        assert convert_training(stopped, directories[f"{first}-{other}"], to=other).step == HALF
        train(other, directories[f"{first}-{other}"])
    return directories


@pytest.mark.parametrize("first", OTHER)
def test_a_run_goes_on_in_the_other_framework(runs, first):
    whole, continued = runs[f"{first}-{first}"], runs[f"{first}-{OTHER[first]}"]
    assert_same_losses(losses(continued), losses(whole))
    assert_same_state(continued, whole)


def test_a_step_that_is_missed_is_noticed(runs):
    """The same comparison, of states one step apart."""
    before = dataclasses.replace(read_training(runs["flax-flax"], step=HALF), step=RECIPE.steps)
    with pytest.raises(AssertionError):
        assert_same_state(before, runs["flax-flax"])


@pytest.mark.parametrize("first", OTHER)
def test_both_frameworks_write_the_same_models(runs, first):
    """The last and the averaged parameters, as native checkpoints."""
    whole, continued = runs[f"{first}-{first}"], runs[f"{first}-{OTHER[first]}"]
    for model in ("model", "model_ema"):
        one, other = (json.loads((run / model / "config.json").read_text()) for run in (whole, continued))
        assert one["config"] == other["config"]
    final = [[line for line in read_metrics(run) if "test_ema/loss" in line][-1] for run in (whole, continued)]
    assert final[0]["test_ema/loss"] == pytest.approx(final[1]["test_ema/loss"], rel=TRAINING_STATE["float64"].limit)
    assert final[0]["test_ema/accuracy"] == final[1]["test_ema/accuracy"]
