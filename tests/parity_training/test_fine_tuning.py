"""Fine-tuning of a checkpoint is the same run in both frameworks: other classes, another image size, float64."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fine_tuning import (
    CONFIG,
    FRAMEWORKS,
    losses,
    make_folder,
    make_tensors,
    recipe_of,
    train,
    write_native,
    write_timm,
)
from training_runs import assert_same_losses, assert_same_state, free_address

from parity import recipes
from parity.bridge import convert_training, read_training
from parity.checkpoints import open_checkpoint
from parity.compare import not_identical

# There is more to compile than to run.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
WORKER = Path(__file__).with_name("fine_tuning_worker.py")
both = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "textures")


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory) -> dict[str, Path]:
    """A run of each framework, from timm's checkpoint, which is gone when it is over."""
    directory = tmp_path_factory.mktemp("runs")
    source = write_timm(directory / "timm")
    found = {name: train(name, recipe_of(folder, source), directory / name) for name in FRAMEWORKS}
    shutil.rmtree(source)
    return found


def test_the_losses_of_every_step_are_the_same(runs):
    curves = [losses(runs[name]) for name in FRAMEWORKS]
    assert len(curves[0]) == 20
    assert_same_losses(*curves)
    assert_same_state(runs["flax"], runs["torch"])


@both
def test_it_starts_from_the_tensors_of_the_checkpoint(framework, folder, tmp_path):
    """Every one but the head and the resized positions, at step 0, in parameters and average."""
    source = write_native(tmp_path / "native")
    train(framework, recipe_of(folder, source), tmp_path / "run", stop_at=0)
    state = read_training(tmp_path / "run")
    assert (state.step, state.data["step"]) == (0, 0)
    assert state.params["head.weight"].shape == (3, 24)
    given = make_tensors()
    expected = {name: value.astype(np.float64) for name, value in given.items()}
    assert sorted(not_identical(expected, state.params)) == ["head.bias", "head.weight", "pos_embed"]
    assert not not_identical(state.params, state.ema)
    assert not any(moment.any() for kind in state.moments.values() for moment in kind.values())
    # A start from the seed would be noticed.
    assert state.config() == dataclasses.replace(
        CONFIG, image_size=(24, 16), num_classes=3, drop_rate=0.1, drop_path_rate=0.2
    )


def test_the_head_is_that_of_the_seed(folder, tmp_path):
    source = write_native(tmp_path / "native")
    heads = {}
    for framework, seed in (("flax", 3), ("torch", 3), ("torch", 4)):
        run = train(framework, recipe_of(folder, source, seed=seed), tmp_path / f"{framework}{seed}", stop_at=0)
        heads[framework, seed] = read_training(run).params["head.weight"]
    assert np.array_equal(heads["flax", 3], heads["torch", 3])
    assert not np.array_equal(heads["torch", 3], heads["torch", 4])


@both
def test_the_run_records_what_it_started_from(framework, runs):
    run = runs[framework]
    record = json.loads((run / "init.json").read_text())["source"]
    assert record["path"].endswith("/timm")
    assert (record["format"], record["step"], record["goes_on"]) == ("timm", None, False)
    assert (record["new"], record["resized"]) == (["head.bias", "head.weight"], ["pos_embed"])
    assert record["files"].keys() == {"config.json", "model.safetensors"}
    assert all(len(file["sha256"]) == 64 for file in record["files"].values())
    for model in ("model", "model_ema"):
        opened = open_checkpoint(run / model)
        assert opened.source["started_from"] == record
        assert opened.config == open_checkpoint(run).config


def test_a_run_that_was_stopped_goes_on_without_its_source(folder, runs, tmp_path):
    """And in the other framework: what it started from moves with it."""
    source = write_timm(tmp_path / "timm")
    recipe = recipe_of(folder, source)
    train("torch", recipe, tmp_path / "run", stop_at=5)
    shutil.rmtree(source)
    convert_training(tmp_path / "run", tmp_path / "moved", to="flax")
    for framework, run in (("torch", "run"), ("flax", "moved")):
        train(framework, recipe, tmp_path / run)
        assert_same_state(tmp_path / run, runs[framework])
    assert (tmp_path / "run" / "init.json").read_text() == (tmp_path / "moved" / "init.json").read_text()


@pytest.mark.sweep
def test_processes_with_a_mesh_read_their_parts(folder, runs, tmp_path):
    """Two processes with two devices each: kernels in four parts, and rows in two; the first process alone records."""
    recipe = recipe_of(folder, write_timm(tmp_path / "timm"), mesh=recipes.MeshShape(data=1, fsdp=2, tensor=2))
    (tmp_path / "recipe.json").write_text(json.dumps(recipes.to_dict(recipe)))
    address = free_address()
    command = [sys.executable, str(WORKER), str(tmp_path / "recipe.json"), str(tmp_path / "run")]
    processes = [
        subprocess.Popen([*command, str(rank), address], stderr=subprocess.PIPE, text=True, env=os.environ | QUICK)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    assert_same_losses(losses(tmp_path / "run"), losses(runs["flax"]))
    assert_same_state(tmp_path / "run", runs["flax"])
    records = [
        json.loads((run / "init.json").read_text())["source"]["files"] for run in (tmp_path / "run", runs["flax"])
    ]
    assert records[0] == records[1] != {}


def test_another_seed_of_the_head_is_noticed(folder, runs, tmp_path):
    """The comparison of the losses, of a run whose first head alone is another."""
    source = write_timm(tmp_path / "timm")
    train("torch", recipe_of(folder, source), tmp_path / "run", stop_at=0)
    file = tmp_path / "run" / "checkpoints" / "0" / "state.pt"
    state = torch.load(file, weights_only=True)
    state["params"]["head.weight"][0, 0] += 1e-6
    torch.save(state, file)
    train("torch", recipe_of(folder, source), tmp_path / "run")
    with pytest.raises(AssertionError):
        assert_same_losses(losses(tmp_path / "run"), losses(runs["torch"]))
