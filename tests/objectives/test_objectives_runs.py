"""Whole runs that learn from a teacher: a run of the other framework teaches, and no other one takes its place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import vit_jax.train
import vit_torch.train
from parity import bridge, checkpoints, configs, recipes
from parity.checks import random_parameters
from parity.runs.frozen import FROZEN

TEACHER = recipes.get(
    "digits",
    overrides={"depth": 1, "embed_dim": 16, "mlp_dim": 24, "num_heads": 2},
    data=recipes.Data(name="digits", num_threads=0),
    steps=1,
    batch_size=8,
    optimizer=recipes.Optimizer(learning_rate=1e-3),
)
TRAIN = {"flax": vit_jax.train.train, "torch": vit_torch.train.train}


def student(teacher, **options):
    objective = recipes.Distillation(teacher=str(teacher), **options)
    return dataclasses.replace(TEACHER, objective=objective, steps=2, checkpoint_every=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each framework, whose teacher is a run of the other one."""
    folder = tmp_path_factory.mktemp("runs")
    for framework, other in (("flax", "torch"), ("torch", "flax")):
        TRAIN[other](TEACHER, folder / f"{other}_teacher")
        TRAIN[framework](student(folder / f"{other}_teacher"), folder / framework, stop_at=1)
    return folder


@pytest.mark.parametrize("framework", ["flax", "torch"])
def test_a_run_of_the_other_framework_teaches(runs, framework):
    result = TRAIN[framework](student(runs / f"{'torch' if framework == 'flax' else 'flax'}_teacher"), runs / framework)
    assert result.steps == 1  # it went on
    lines = [json.loads(line) for line in (runs / framework / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/accuracy", "train/agreement"} <= lines[0].keys()
    assert {"test/accuracy", "test/loss"} <= lines[-1].keys()
    opened = checkpoints.open_checkpoint(runs / framework / "model")
    assert opened.config == student("any").config(10)


def test_the_teacher_goes_with_a_run_that_moves(runs, tmp_path):
    bridge.convert_training(runs / "flax", tmp_path / "moved", to="torch", step=1)
    result = vit_torch.train.train(student(runs / "torch_teacher"), tmp_path / "moved")
    assert result.steps == 1


def test_another_teacher_is_another_run(runs, tmp_path):
    config = configs.get("vit_digits", embed_dim=16, depth=1, num_heads=2, mlp_dim=24)
    shapes = checkpoints.parameter_shapes(config)

    def write(seed):
        values = {name: value.astype(np.float32) for name, value in random_parameters(shapes, seed=seed).items()}
        checkpoints.write(tmp_path / "teacher", config, values)

    write(0)
    recipe = student(tmp_path / "teacher", kind="soft", temperature=2.0)
    vit_torch.train.train(recipe, tmp_path / "run", stop_at=1)
    write(1)
    with pytest.raises(checkpoints.CheckpointError, match=rf"objective\.teacher.*began with.*{FROZEN}"):
        vit_torch.train.train(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 9}, r"objective\.teacher: got \S+ with 9 classes, expected the 10 of digits"),
        ({"in_chans": 2}, "trains"),
    ],
)
def test_a_teacher_that_does_not_fit(tmp_path, fields, message):
    config = configs.get("vit_digits", embed_dim=16, depth=1, num_heads=2, mlp_dim=24, **fields)
    values = random_parameters(checkpoints.parameter_shapes(config))
    checkpoints.write(tmp_path / "teacher", config, values)
    if message == "trains":  # grey images, in each channel of the teacher's
        assert vit_torch.train.train(student(tmp_path / "teacher"), tmp_path / "run").steps == 2
        return
    with pytest.raises(ValueError, match=message):
        vit_torch.train.train(student(tmp_path / "teacher"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_fewer_channels(tmp_path):
    config = configs.get("vit_digits", embed_dim=16, depth=1, num_heads=2, mlp_dim=24, in_chans=1)
    checkpoints.write(tmp_path / "teacher", config, random_parameters(checkpoints.parameter_shapes(config)))
    grey = configs.get("vit_digits").preprocessing
    colours = {**TEACHER.overrides, "in_chans": 3, "preprocessing": grey}
    recipe = dataclasses.replace(student(tmp_path / "teacher"), overrides=colours)
    with pytest.raises(ValueError, match=r"objective\.teacher: got \S+ for images of 1 channels, expected the 3"):
        vit_jax.train.train(recipe, tmp_path / "run")
