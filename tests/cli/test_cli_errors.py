"""What goes wrong is one line and a code in every command: absent extras, the disk, Ctrl-C, a closed pipe, places."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity import checkpoints, configs
from parity.cli import COMMANDS, common, errors, main

ROOT = Path(__file__).parents[2]
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    config = configs.get("vit_test")
    path = tmp_path_factory.mktemp("cli") / "checkpoint"
    tensors = {name: np.ones(shape, np.float32) for name, shape in checkpoints.parameter_shapes(config).items()}
    checkpoints.write(path, config, tensors, name="vit_test")
    return path


def without(absent: tuple[str, ...], *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command where packages aren't installed."""
    block = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
    code = f"{block}from parity.cli import main\nmain({[str(arg) for arg in args]!r})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.parametrize(
    ("absent", "args", "extra"),
    [
        (JAX, ("demo",), "jax"),
        (JAX, ("check", "vit_test"), "jax"),
        (JAX, ("diff", "vit_test", "vit_test"), "jax"),
        (JAX, ("train", "digits"), "jax"),
        (JAX, ("eval", "checkpoint", "--framework", "flax"), "jax"),
        (("torch",), ("check", "vit_test"), "torch"),
        (("torch",), ("train", "digits", "--framework", "torch"), "torch"),
        (("torch",), ("eval", "checkpoint", "--framework", "torch"), "torch"),
        (("sklearn",), ("eval", "checkpoint", "--data-dir", "data"), "data"),
        (("huggingface_hub",), ("info", "hf-hub:owner/name"), "hub"),
        (("huggingface_hub",), ("convert", "hf-hub:owner/name", "out"), "hub"),
        (("huggingface_hub",), ("tensors", "hf-hub:owner/name"), "hub"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_absent_extra_is_named(absent, args, extra, checkpoint, tmp_path):
    if args[0] == "eval":  # which asks for data first
        pytest.importorskip("tensorflow_datasets")
    done = without(absent, *(checkpoint if arg == "checkpoint" else arg for arg in args), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # what comes before is TFDS's progress
    assert last.startswith("error: ")
    assert f"pip install 'vit-parity[{extra}]'" in last


def test_every_command_is_in_the_list_above():
    """But `models`, which needs nothing more."""
    named = {mark.args[1][i][1][0] for mark in test_an_absent_extra_is_named.pytestmark for i in range(12)}
    assert named == set(COMMANDS) - {"models"}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "error: /x/y: Permission denied\n"),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), 2, "error: /a -> /b: Invalid cross-device link\n"),
        (IsADirectoryError(21, "Is a directory", "/x"), 2, "error: /x: Is a directory\n"),
        (OSError("the line is dead"), 2, "error: the line is dead\n"),
        (ValueError("steps: got [bold]1[/]"), 2, "error: steps: got [bold]1[/]\n"),
        (MemoryError(), 2, "error: out of memory\n"),
        (MemoryError("3 GiB"), 2, "error: out of memory: 3 GiB\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (ModuleNotFoundError("no", name="flax.nnx"), 2, "error: this needs flax, which isn't installed: pip install"),
        (ModuleNotFoundError("No module named 'mine'", name="mine"), 2, "error: No module named 'mine'\n"),
    ],
    ids=repr,
)
def test_one_line(capsys, monkeypatch, error, code, message):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr("parity.configs.names", fails)
    with pytest.raises(SystemExit) as exited:
        main(["models"])
    assert exited.value.code == code
    assert capsys.readouterr().err.startswith(message)


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    for error in (ImportError("cannot import name 'x' from 'parity.y'", name="parity.y"), TypeError("x")):

        def fails(*args, error=error, **options):
            raise error

        monkeypatch.setattr("parity.configs.names", fails)
        with pytest.raises(type(error)):
            main(["models"])


def test_a_closed_pipe_is_silent(tmp_path):
    command = [sys.executable, "-m", "parity.cli", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 2


def test_a_full_disk_is_a_line(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "parity.cli", "models"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_ctrl_c_in_the_middle(tmp_path):
    """Of a command that waits: its source is a pipe that nobody writes to."""
    code = (
        "import parity.cli, parity.configs, sys, time\n"
        "def wait(*_):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        "parity.configs.names = wait\nparity.cli.main(['models'])"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    "args",
    [
        ("check", "no_such_model", "--json", "{}"),
        ("check", "no_such_model", "--report", "{}/file"),
        ("diff", "no_such_model", "vit_test", "--json", "{}"),
        ("diff", "no_such_model", "vit_test", "--markdown", "{}/file/x.md"),
        ("train", "digits", "--directory", "{}/file", "--data-dir", "/no/such"),
        ("convert", "no/such/source", "{}/file"),
        ("convert", "no/such/source", "{}/file", "--to", "torch-training"),
        ("tensors", "no/such/source", "--json", "{}"),
    ],
    ids=" ".join,
)
def test_places_of_results_are_checked_first(capsys, tmp_path, args):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as exited:
        main([arg.format(tmp_path) for arg in args])
    err = capsys.readouterr().err
    assert exited.value.code == 2
    assert "is a directory, expected a file" in err or "is a file, expected a directory" in err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("size", [["32"], ["32", "32"], ["32x32"]])
def test_one_number_is_a_square(capsys, checkpoint, tmp_path, size):
    with pytest.raises(SystemExit) as exited:
        main(["convert", "--image-size", *size, str(checkpoint), str(tmp_path / "out")])
    assert exited.value.code == 0, capsys.readouterr().err
    assert checkpoints.read(tmp_path / "out").config.image_size == (32, 32)


@pytest.mark.parametrize("size", [["32x"], ["2.5"], ["32x32x3"], ["-"]])
def test_what_is_no_size(capsys, checkpoint, tmp_path, size):
    with pytest.raises(SystemExit) as exited:
        main(["convert", str(checkpoint), str(tmp_path / "out"), "--image-size", *size])
    assert exited.value.code == 2
    assert "expected a number, two numbers, or HEIGHTxWIDTH" in " ".join(capsys.readouterr().err.split())


def test_a_height_and_a_width(capsys, checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        main(["convert", str(checkpoint), str(tmp_path / "out"), "--image-size", "24x40"])
    assert checkpoints.read(tmp_path / "out").config.image_size == (24, 40), capsys.readouterr().err


def test_long_lists_are_grouped_and_counted():
    optimizer = {f"optimizer.state.{i}.exp_avg": "optimiser" for i in range(300)}
    many = {f"extra.{'x' * i}": "no tensor" for i in range(50)}
    rows = common.not_used({"head.bias": "no head", **optimizer, **many})
    assert rows[:2] == [("head.bias", "no head"), ("optimizer.state.{0-299}.exp_avg (300)", "optimiser")]
    assert len(rows) == 21
    assert rows[-1] == ("... and 32 more", "no tensor")
    assert common.not_used({}) == []


def test_extras_are_those_of_the_project():
    text = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in text for extra in errors.EXTRAS.values())
