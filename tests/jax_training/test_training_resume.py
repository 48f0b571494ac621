"""A run that is killed goes on from its last checkpoint and ends where it would have ended, bit for bit."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess

import jax
import pytest
from rich.console import Console
from training_workers import ENVIRONMENT, run_worker, worker_command

from parity import recipes
from parity.configs import Execution
from parity.runs.metrics import read_metrics
from vit_jax import train as train_module
from vit_jax.train import train


def test_sigkill(tiny, tmp_path, digits_dir):
    recipe = json.dumps(recipes.to_dict(dataclasses.replace(tiny, mesh=recipes.MeshShape(data=2, fsdp=2))))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = worker_command("resume_worker.py", recipe, str(digits_dir), "7", str(killed))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout.readline() == "hanging\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert read_metrics(killed)[-1]["step"] == 7
    # What a kill in the middle of a write leaves behind.
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')
    # The resumed run comes first, so that nothing of the whole one can be left in the process.
    resumed, whole = run_worker("resume_worker.py", recipe, str(digits_dir), "0", str(killed), str(whole))
    assert list(resumed["losses"]) == [str(step) for step in range(5, 13)]
    assert resumed["losses"] == {step: whole["losses"][step] for step in resumed["losses"]}
    assert resumed["digest"] == whole["digest"]
    assert resumed["accuracy"] == whole["accuracy"]
    assert resumed["steps"] == whole["steps"] == list(range(1, 13))
    assert resumed["logged"] == whole["logged"]


@pytest.fixture
def one_device():
    return jax.devices()[:1]


def test_resume_on_another_execution_and_a_finished_run(tiny, tmp_path, digits_dir, one_device, monkeypatch, capsys):
    recipe = dataclasses.replace(tiny, steps=8)

    class StoppedError(Exception):
        pass

    def stop(step, metrics):
        if step == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(recipe, tmp_path, data_dir=digits_dir, devices=one_device, on_step=stop)
    other = dataclasses.replace(recipe, execution=Execution(scan=True), log_every=2)
    terminal = Console(file=io.StringIO(), width=120)
    result = train(other, tmp_path, data_dir=digits_dir, devices=one_device, console=terminal)
    assert result.steps == 4
    assert f"step 8: test accuracy {result.evaluation.accuracy:.2%}" in terminal.file.getvalue()
    monkeypatch.setattr(train_module, "put_batch", None)  # a finished run makes no step
    again = train(other, tmp_path, data_dir=digits_dir, devices=one_device)
    assert again.steps == 0
    assert again.evaluation.loss == result.evaluation.loss


def test_another_recipe_is_one_error_that_names_the_fields(tiny, tmp_path, digits_dir, one_device, capsys):
    recipe = dataclasses.replace(tiny, steps=1, optimizer=dataclasses.replace(tiny.optimizer, warmup_steps=0))
    train(recipe, tmp_path, data_dir=digits_dir, devices=one_device)
    assert capsys.readouterr().out == ""  # no console was given
    other = dataclasses.replace(
        recipe, seed=3, log_every=5, optimizer=dataclasses.replace(recipe.optimizer, weight_decay=0.1)
    )
    with pytest.raises(ValueError, match="another recipe") as caught:
        train(other, tmp_path, data_dir=digits_dir, devices=one_device)
    assert str(caught.value).splitlines()[1:] == [
        "  optimizer.weight_decay: 0.05 there, 0.1 here",
        "  seed: 0 there, 3 here",
    ]
    with pytest.raises(ValueError, match="holds this run already"):
        train(recipe, tmp_path, data_dir=digits_dir, devices=one_device, resume=False)


def test_a_directory_of_something_else_is_left_alone(tiny, tmp_path, digits_dir, one_device):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files but no run"):
        train(tiny, tmp_path, data_dir=digits_dir, devices=one_device)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
