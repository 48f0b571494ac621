"""The directory of a run that PyTorch trains: whatever happens, its checkpoints are whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from run_states import RECIPES, random_state, tensors, train_in_torch

from parity import checkpoints
from parity.bridge import read_training, write_training
from parity.checkpoints import CheckpointError
from parity.checkpoints.formats import run
from parity.checkpoints.formats.run import framework_of, steps
from parity.compare import not_identical
from vit_torch.optim import with_moments
from vit_torch.run_checkpoints import RunDirectory
from vit_torch.train_step import TrainState, make_trainer


def test_the_newest_checkpoints_are_kept(tmp_path):
    recipe = RECIPES["adamw"]
    config = recipe.config(10)
    assert framework_of(tmp_path / "run") is None
    train_in_torch(tmp_path / "run", recipe, steps=4)
    assert steps(tmp_path / "run") == [3, 4]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["3", "4"]
    assert read_training(tmp_path / "run").data == {"step": 4}
    assert read_training(tmp_path / "run", step=3).data == {"step": 3}
    with pytest.raises(ValueError, match="holds this run already"):
        RunDirectory(tmp_path / "run", recipe, config, resume=False)
    with pytest.raises(ValueError, match=r"another recipe(.|\n)*ema_decay: None there, 0.9 here"):
        RunDirectory(tmp_path / "run", RECIPES["sgd_everything"], config, resume=True)
    with pytest.raises(ValueError, match="holds files but no run"):
        RunDirectory(tmp_path / "run" / "checkpoints", recipe, config, resume=True)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


def killed_at(monkeypatch, moment: int) -> None:
    """Lets the process die in the middle of the moment-th operation on files."""
    operations = 0

    def dies(function, halfway=lambda *_: None):
        def operation(*arguments, **options):
            nonlocal operations
            operations += 1
            if operations == moment:
                halfway(*arguments)
                raise KilledError
            return function(*arguments, **options)

        return operation

    def half_saved(value, file):
        save(value, file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def half_removed(folder):
        (folder / "state.pt").unlink()

    save = torch.save
    monkeypatch.setattr(torch, "save", dies(torch.save, half_saved))
    monkeypatch.setattr(shutil, "rmtree", dies(shutil.rmtree, half_removed))
    for name in ("rename", "replace", "write_text", "mkdir"):
        monkeypatch.setattr(Path, name, dies(getattr(Path, name)))


def save_steps(directory: Path, state: TrainState, *, last: int) -> None:
    """Goes on with a run in which every number is the step."""
    recipe = RECIPES["adamw"]
    with RunDirectory(directory, recipe, recipe.config(10), resume=True) as run:
        state, position = run.restore(state) or (state, {"step": 0})
        for step in range(position["step"] + 1, last + 1):
            fill(state, step)
            run.save(step, state, {"step": step})


def fill(state: TrainState, step: int) -> None:
    with torch.no_grad():
        for parameter in state.params.values():
            parameter.fill_(step)
    values = {name: torch.full_like(parameter, step) for name, parameter in state.params.items()}
    with_moments(state.opt_state, step, {"mu": values, "nu": values})


def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path):
    recipe = RECIPES["adamw"]
    state = make_trainer(recipe, recipe.config(10)).init(0)
    save_steps(tmp_path / "start", state, last=2)
    for moment in range(1, 100):
        directory = tmp_path / str(moment)
        shutil.copytree(tmp_path / "start", directory)
        with pytest.MonkeyPatch.context() as monkeypatch:
            killed_at(monkeypatch, moment)
            try:
                save_steps(directory, state, last=4)
                break
            except KilledError:
                pass
        assert len(steps(directory)) in (2, 3)
        for step in steps(directory):
            found = read_training(directory, step=step)
            assert found.data == {"step": step}
            assert all((array == step).all() for array in tensors(found).values())
        save_steps(directory, state, last=5)
        assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["4", "5"]
    # Of the recipe three; of each step the folder, its two files and its name, and the old one's name and removal.
    assert moment > 15


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    state = random_state(RECIPES["sgd_everything"])
    directory = tmp_path_factory.mktemp("averaged") / "run"
    write_training(state, directory, to="torch")
    return state, directory


@pytest.mark.parametrize("ema", [False, True])
def test_it_opens_as_a_checkpoint(averaged, ema, tmp_path):
    state, directory = averaged
    found = run.read(directory, ema=ema)
    assert found.config == state.recipe.config(10)
    assert (found.source["step"], found.source["ema"]) == (3, ema)
    assert not_identical(dict(found.tensors), dict(state.ema if ema else state.params)) == ()
    assert found.tensors.shapes() == {name: value.shape for name, value in state.params.items()}


def test_it_converts_to_a_native_checkpoint(averaged, tmp_path):
    state, directory = averaged
    checkpoints.convert(directory, tmp_path / "native")
    assert not_identical(dict(checkpoints.read(tmp_path / "native").tensors), dict(state.params)) == ()
    # The file's own names say which part a tensor is of.
    file = directory / "checkpoints" / "3" / "state.pt"
    assert np.array_equal(checkpoints.open_tensors(file)["params.head.bias"], state.params["head.bias"])


def test_it_opens_without_a_framework(averaged):
    _, directory = averaged
    code = (
        "import sys\nfor name in ('torch', 'jax'): sys.modules[name] = None\n"
        f"from parity.checkpoints import open_checkpoint\nprint(len(open_checkpoint({str(directory)!r}).tensors))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(averaged[0].params)), done.stderr


def test_an_average_that_is_not_there(tmp_path):
    write_training(random_state(RECIPES["adamw"]), tmp_path / "run", to="torch")
    with pytest.raises(CheckpointError, match=r"state.pt: got tensors under .*params.*, expected some under ema\."):
        run.read(tmp_path / "run", ema=True)
