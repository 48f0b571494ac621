"""A run moves between the frameworks and back: every tensor and every counter is the same, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from run_states import RECIPES, differing, random_state, tensors, train_in_flax, train_in_torch

from parity.bridge import convert_training, read_training, write_training
from vit_torch.models import create_model

recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@recipes
def test_there_and_back(recipe, tmp_path):
    state = random_state(recipe)
    write_training(state, tmp_path / "flax", to="flax")
    for src, to in (("flax", "torch"), ("torch", "flax_again"), ("flax_again", "torch_again")):
        moved = convert_training(tmp_path / src, tmp_path / to, to=to.partition("_")[0])
        assert differing(state, moved) == []
        assert differing(state, read_training(tmp_path / to)) == []
    files = [(tmp_path / name / "checkpoints" / "3" / "state.pt") for name in ("torch", "torch_again")]
    first, second = (torch.load(file, weights_only=True)["optimizer"] for file in files)
    assert first["param_groups"] == second["param_groups"]


@pytest.mark.parametrize("name", ["adamw_everything", "sgd"])
def test_a_run_goes_on_in_flax_and_then_in_pytorch(name, tmp_path):
    recipe = RECIPES[name]
    train_in_torch(tmp_path / "torch", recipe, steps=2)
    convert_training(tmp_path / "torch", tmp_path / "flax", to="flax")
    train_in_flax(tmp_path / "flax", recipe, steps=3)
    third = convert_training(tmp_path / "flax", tmp_path / "again", to="torch")
    assert (third.step, third.data) == (3, {"step": 3})
    # Every tensor of what Flax wrote is one that it changed.
    before, after = tensors(read_training(tmp_path / "torch")), tensors(third)
    assert [name for name in before if np.array_equal(before[name], after[name])] == []
    convert_training(tmp_path / "again", tmp_path / "flax_again", to="flax")
    assert differing(read_training(tmp_path / "flax"), read_training(tmp_path / "flax_again")) == []
    train_in_torch(tmp_path / "again", recipe, steps=4)
    assert read_training(tmp_path / "again").step == 4


@recipes
def test_what_pytorch_remembers_is_what_its_checkpoint_says(recipe, tmp_path):
    train_in_torch(tmp_path / "run", recipe, steps=2)
    state = read_training(tmp_path / "run")
    convert_training(tmp_path / "run", tmp_path / "flax", to="flax")
    convert_training(tmp_path / "flax", tmp_path / "again", to="torch")
    assert differing(state, read_training(tmp_path / "again")) == []
    saved = [torch.load(tmp_path / name / "checkpoints/2/state.pt", weights_only=True) for name in ("run", "again")]
    rates = [[group["lr"] for group in each["optimizer"]["param_groups"]] for each in saved]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == (1 if recipe.optimizer.layer_decay == 1 else 3)


def test_an_earlier_step_has_its_own_metrics(tmp_path):
    recipe = RECIPES["adamw"]
    train_in_torch(tmp_path / "run", recipe, steps=3)
    lines = [{"step": step, "train/loss": float(step)} for step in (1, 2, 2, 3)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    moved = convert_training(tmp_path / "run", tmp_path / "flax", to="flax", step=2)
    assert (moved.step, moved.data) == (2, {"step": 2})
    assert (tmp_path / "flax" / "metrics.jsonl").read_text().count("\n") == 3
    assert differing(moved, read_training(tmp_path / "flax")) == []


def test_a_mesh_reads_it_and_what_a_mesh_wrote_is_read(tmp_path):
    """On eight devices, where parameters and moments are in parts."""
    state = random_state(RECIPES["adamw_everything"])
    write_training(state, tmp_path / "torch", to="torch")
    convert_training(tmp_path / "torch", tmp_path / "flax", to="flax")
    worker = Path(__file__).with_name("restore_worker.py")
    command = [sys.executable, "-W", "error", str(worker), str(tmp_path / "flax"), str(tmp_path / "sharded")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"parts": 4}
    moved = convert_training(tmp_path / "sharded", tmp_path / "torch_again", to="torch")
    assert [name for name in differing(state, moved) if name != "metrics"] == []


def test_an_optimizer_of_the_users_own_takes_it(tmp_path):
    recipe = RECIPES["adamw"]
    state = random_state(recipe)
    write_training(state, tmp_path / "run", to="torch")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "3" / "state.pt", weights_only=True)
    model = create_model(recipe.config(10))
    model.load_state_dict(saved["params"], strict=True)
    groups = [
        {"params": [model.get_parameter(name) for name in group["param_names"]], "weight_decay": group["weight_decay"]}
        for group in saved["optimizer"]["param_groups"]
    ]
    optimizer = torch.optim.AdamW(groups)
    optimizer.load_state_dict(saved["optimizer"])
    for name, parameter in model.named_parameters():
        found = optimizer.state[parameter]
        assert found["step"] == 3
        assert np.array_equal(found["exp_avg"].numpy(), state.moments["mu"][name])
        assert np.array_equal(found["exp_avg_sq"].numpy(), state.moments["nu"][name])
    model(torch.zeros(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert optimizer.state[parameter]["step"] == 4
