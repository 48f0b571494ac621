"""What can't be moved is one clear error, and nothing is left behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from run_states import RECIPES, random_state

from parity.bridge import convert_training, read_training, write_training
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats.run import FRAMEWORKS, framework_of

STATE = random_state(RECIPES["adamw"])
both = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each framework, with the same state."""
    directory = tmp_path_factory.mktemp("runs")
    for framework in FRAMEWORKS:
        write_training(STATE, directory / framework, to=framework)
    return directory


def changed(state, **moments):
    """The state with a tensor of a moment replaced, or left out where it is None."""
    new = {
        kind: {name: value for name, value in (state.moments.get(kind, {}) | tensors).items() if value is not None}
        for kind, tensors in moments.items()
    }
    return dataclasses.replace(state, moments={**state.moments, **new})


@both
def test_every_tensor_that_does_not_fit_is_in_one_report(framework, tmp_path):
    wrong = changed(
        STATE,
        mu={"head.weight": None, "norm.bias": np.zeros(3, np.float32)},
        nu={"head.extra": np.zeros(2, np.float32)},
        trace={"head.bias": np.zeros(10, np.float32)},
    )
    wrong = dataclasses.replace(wrong, ema={"head.bias": np.zeros(10, np.float32)})
    with pytest.raises(CheckpointError) as caught:
        write_training(wrong, tmp_path / "run", to=framework)
    assert sorted(line.strip() for line in str(caught.value).splitlines()[1:]) == [
        "misshapen mu.norm.bias: got [3], expected [12]",
        "missing mu.head.weight [10, 12]",
        "unexpected ema.head.bias [10]",
        "unexpected nu.head.extra [2]",
        "unexpected trace.head.bias [10]",
    ]
    assert list(tmp_path.iterdir()) == []


def test_another_precision_and_a_step_that_the_run_has_not(tmp_path):
    double = dataclasses.replace(STATE.recipe, precision="float64")
    with pytest.raises(CheckpointError, match=r"type float64\n  params.pos_embed: got float32"):
        write_training(dataclasses.replace(STATE, recipe=double), tmp_path / "run", to="flax")
    with pytest.raises(CheckpointError, match="step: got 6, expected 1 to 5"):
        write_training(dataclasses.replace(STATE, step=6), tmp_path / "run", to="torch")


@both
def test_an_average_that_the_recipe_asks_for(framework, runs, tmp_path):
    shutil.copytree(runs / framework, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"ema_decay": 0.9}))
    with pytest.raises(CheckpointError, match=r"missing ema\.") as caught:
        read_training(tmp_path / "run")
    shapes = len(STATE.params)
    assert f"{shapes} of" in str(caught.value)


def test_tensors_that_a_file_of_pytorch_lacks_or_has_too_many_of(runs, tmp_path):
    shutil.copytree(runs / "torch", tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "3" / "state.pt"
    saved = torch.load(file, weights_only=True)
    names = [name for group in saved["optimizer"]["param_groups"] for name in group["param_names"]]
    of = {name: saved["optimizer"]["state"][index] for index, name in enumerate(names)}
    del of["head.bias"]["exp_avg"]
    of["norm.bias"]["exp_avg_sq"] = torch.zeros(4)
    of["norm.bias"]["max_exp_avg_sq"] = torch.zeros(12)
    torch.save(saved, file)
    with pytest.raises(CheckpointError) as caught:
        convert_training(tmp_path / "run", tmp_path / "new", to="flax")
    assert sorted(line.strip() for line in str(caught.value).splitlines()[1:]) == [
        "misshapen nu.norm.bias: got [4], expected [12]",
        "missing mu.head.bias [10]",
        "unexpected max_exp_avg_sq.norm.bias [12]",
    ]
    of["head.bias"]["step"] = torch.tensor(2.0)
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match=r"expected 3, the step, of each counter\n  step of head.bias: got 2"):
        read_training(tmp_path / "run")
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match="not a sound checkpoint of training in PyTorch"):
        read_training(tmp_path / "run")


def test_arrays_that_orbax_lacks_or_has_too_many_of(runs, tmp_path):
    """The run is said to be another optimiser's."""
    shutil.copytree(runs / "flax", tmp_path / "run")
    file = tmp_path / "run" / "recipe.json"
    recipe = json.loads(file.read_text())
    file.write_text(json.dumps(recipe | {"optimizer": recipe["optimizer"] | {"name": "sgd"}}))
    with pytest.raises(CheckpointError) as caught:
        convert_training(tmp_path / "run", tmp_path / "new", to="torch")
    assert "missing trace.head.bias [10]" in str(caught.value)
    assert "more" in str(caught.value).splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_counters_of_orbax(runs, tmp_path):
    shutil.copytree(runs / "flax", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "3").rename(tmp_path / "run" / "checkpoints" / "4")
    with pytest.raises(CheckpointError, match="expected 4, the step, of each counter") as caught:
        read_training(tmp_path / "run")
    names = {line.strip().partition(":")[0].rpartition(".")[2] for line in str(caught.value).splitlines()[1:]}
    assert names == {"step", "count"}


@pytest.mark.parametrize(("framework", "other"), [("flax", "torch"), ("torch", "flax")])
def test_the_other_frameworks_run(framework, other, runs):
    import vit_jax.run_checkpoints
    import vit_torch.run_checkpoints

    assert framework_of(runs / framework) == framework
    side = vit_jax if other == "flax" else vit_torch
    command = rf"vit-parity convert \S*{framework} NEW --to {other}-training"
    with pytest.raises(ValueError, match=command):
        side.run_checkpoints.RunDirectory(runs / framework, STATE.recipe, STATE.config(), resume=True)


def test_where_to(runs, tmp_path):
    with pytest.raises(ValueError, match="to: got 'torhc', expected one of flax, torch; did you mean 'torch'"):
        convert_training(runs / "flax", tmp_path / "new", to="torhc")
    with pytest.raises(CheckpointError, match="to: got torch, and the checkpoints there are PyTorch's already"):
        convert_training(runs / "torch", tmp_path / "new", to="torch")
    with pytest.raises(CheckpointError, match="exists; choose another directory"):
        convert_training(runs / "torch", runs / "flax", to="flax")
    with pytest.raises(CheckpointError, match=r"step: got 9, expected one of \[3\]"):
        convert_training(runs / "torch", tmp_path / "new", to="flax", step=9)
    with pytest.raises(CheckpointError, match=r"got no training run, expected recipe\.json and checkpoints/ there"):
        convert_training(tmp_path, tmp_path / "new", to="flax")
    (tmp_path / "empty" / "checkpoints" / "5").mkdir(parents=True)
    shutil.copy(runs / "flax" / "recipe.json", tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"expected Orbax's state/ or PyTorch's state\.pt there"):
        read_training(tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("framework", "package", "extra"), [("flax", "vit_jax", "jax"), ("torch", "vit_torch", "torch")]
)
def test_a_framework_that_is_not_installed(framework, package, extra, runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert read_training(runs / framework).step == STATE.step  # a run is read without the framework that trained it
    with pytest.raises(CheckpointError, match=rf"isn't installed: pip install 'vit-parity\[{extra}\]'"):
        write_training(STATE, tmp_path / "run", to=framework)
    assert list(tmp_path.iterdir()) == []


def test_orbax_is_what_a_run_of_flax_needs(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    for read in (read_training, open_checkpoint):
        with pytest.raises(CheckpointError, match=r"isn't installed: pip install 'vit-parity\[jax\]'"):
            read(runs / "flax")


@both
def test_a_conversion_that_fails_leaves_nothing(framework, tmp_path, monkeypatch):
    from vit_jax import run_checkpoints as flax
    from vit_torch import run_checkpoints as pytorch

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr((flax if framework == "flax" else pytorch).RunDirectory, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_training(STATE, tmp_path / "run", to=framework)
    assert list(tmp_path.iterdir()) == []
