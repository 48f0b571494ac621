"""A run's directory opened as a checkpoint: what Orbax holds is what the run's native checkpoint holds."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import vit_jax
from parity import checkpoints, recipes
from parity.checkpoints import CheckpointError
from parity.checkpoints.formats import run as runs
from parity.compare import not_identical
from vit_jax.state_dict import state_dict
from vit_jax.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_dir):
    recipe = recipes.get(
        "digits",
        overrides={"depth": 1, "embed_dim": 16, "mlp_dim": 32},
        batch_size=32,
        steps=2,
        optimizer=recipes.Optimizer(learning_rate=3e-3),
        eval_every=0,
        checkpoint_every=1,
    )
    directory = tmp_path_factory.mktemp("run") / "run"
    train(recipe, directory, data_dir=digits_dir, devices=jax.devices()[:1])
    return directory


def test_the_last_step_is_the_native_checkpoint(run):
    assert runs.is_run(run)
    assert not runs.is_run(run / "model")
    found, native = runs.read(run), checkpoints.read(run / "model")
    assert found.config == native.config
    assert found.source["step"] == 2
    assert found.tensors.shapes() == native.tensors.shapes()
    assert found.tensors.dtypes() == native.tensors.dtypes()
    assert not_identical(dict(found.tensors), dict(native.tensors)) == ()


def test_an_earlier_step_can_be_written_as_a_native_checkpoint(run, tmp_path):
    first = runs.read(run, step=1)
    assert not_identical(dict(first.tensors), dict(runs.read(run).tensors))
    checkpoints.write(tmp_path / "first", first.config, first.tensors, name=first.name, source=first.source)
    assert not_identical(state_dict(vit_jax.load(tmp_path / "first")), dict(first.tensors)) == ()


def test_a_part_of_a_tensor(run):
    tensors = runs.read(run).tensors
    name = "blocks.0.attn.qkv.weight"
    assert np.array_equal(tensors.slice(name, (slice(3, 7), slice(0, 2))), tensors[name][3:7, 0:2])


def test_averaged_parameters_that_are_not_there(run):
    with pytest.raises(CheckpointError, match="expected ema among them"):
        runs.read(run, ema=True)


def test_a_step_that_is_not_there(run):
    with pytest.raises(CheckpointError, match=r"step: got 7, expected one of \[1, 2\]"):
        runs.read(run, step=7)


def test_what_is_no_run(run, tmp_path):
    (tmp_path / "checkpoints" / "1" / "state").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"recipe\.json: no such file"):
        runs.read(tmp_path)
    (tmp_path / "recipe.json").write_text((run / "recipe.json").read_text())
    with pytest.raises(CheckpointError, match="not a readable Orbax checkpoint"):
        runs.read(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({"model": "vit_digits"}))
    with pytest.raises(CheckpointError, match="recipe"):
        runs.read(tmp_path)
