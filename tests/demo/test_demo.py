"""The main job, as a user runs it, with a third of the steps."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity.cli import main


def vit_parity(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parity.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "vit-parity-demo", vit_parity(
        "demo", "--devices", 4, "--steps", 400, "--accuracy", 0.92, cwd=folder
    )


def test_accuracy_and_parity_hold(demo):
    _, finished = demo
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_report_is_self_contained(demo):
    directory, _ = demo
    page = (directory / "report.html").read_text()
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == 4
    for picture in pictures:
        assert base64.b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert "http" not in page.replace("http-equiv", "")


def test_the_markdown_names_files_that_exist(demo):
    directory, _ = demo
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (directory / "report.md").read_text())
    assert len(pictures) == 4
    assert all((directory / picture).is_file() for picture in pictures)


def test_the_loss_fell(demo):
    directory, _ = demo
    lines = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0] / 2


def test_eval_gives_the_same_in_both_frameworks(demo, capsys):
    directory, _ = demo
    with pytest.raises(SystemExit) as finished:
        main(["eval", str(directory / "run" / "model")])
    assert not finished.value.code
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert rows["flax"][:2] == rows["torch"][:2]
    assert float(rows["torch"][1].rstrip("%")) >= 92


def test_check_of_the_checkpoint_passes_and_writes_figures(demo, tmp_path):
    directory, _ = demo
    args = ("check", directory / "run" / "model", "--dtypes", "float64", "--json", tmp_path / "parity.json")
    with pytest.raises(SystemExit) as finished:
        main([str(arg) for arg in args])
    assert not finished.value.code
    figures = json.loads((tmp_path / "parity.json").read_text())
    assert figures["passed"] is True
    (outputs,) = figures["levels"]["forward"]["precisions"][0]["parts"]
    assert {place["name"] for place in outputs["places"]} >= {"blocks.0", "logits"}


@pytest.mark.sweep
def test_a_weak_model_is_not_called_good(tmp_path):
    # After 60 steps it is far from 97 %.
    finished = vit_parity("demo", "--devices", 2, "--steps", 60, "--directory", "out", cwd=tmp_path)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "| **no** |" in (tmp_path / "out" / "report.md").read_text()
