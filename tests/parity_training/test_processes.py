"""The same recipe is the same run, from values of its seed and with nothing copied: Flax and PyTorch, two processes and
one (`jax.distributed`, DistributedDataParallel), and a mesh of three axes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import assert_same_losses, assert_same_state, free_address

from parity.checkpoints import open_checkpoint
from parity.compare import compare
from parity.runs.metrics import read_metrics
from parity.tolerances import TRAINING_STATE

WORKER = Path(__file__).with_name("parallel_worker.py")
STEPS = 6
# Framework, mesh, and processes.
TWO = [("flax", "2x1x1", 2), ("torch", "2x1x1", 2)]
LONG = [("flax", "1x1x1", 1), ("flax", "2x2x2", 1), *TWO]


def run(framework: str, mesh: str, world: int, directory: Path, *, steps: int = STEPS) -> Path:
    address, directory = free_address(), directory / f"{framework}-{mesh}-{world}"
    # There is more to compile than to run, and one thread each, for threads of many processes wait for each other.
    quick = {"OMP_NUM_THREADS": "1"} | ({"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"} if steps == STEPS else {})
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, framework, mesh, str(steps), str(rank), str(world), address, directory],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | quick,
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=480)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, "\n".join(errors)
    return directory


def assert_same_run(left: Path, right: Path, steps: int) -> None:
    """Losses, states, accuracies and averages of two runs."""
    losses = [[line["train/loss"] for line in read_metrics(run) if "train/loss" in line] for run in (left, right)]
    assert len(losses[0]) == steps
    assert_same_losses(*losses)
    assert_same_state(left, right)
    accuracies = [
        [line["test/accuracy"] for line in read_metrics(run) if "test/accuracy" in line] for run in (left, right)
    ]
    assert accuracies[0] == accuracies[1] != []
    models = [open_checkpoint(run / "model_ema").tensors for run in (left, right)]
    assert compare(*models).ok(TRAINING_STATE["float64"].limit)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """PyTorch in one process."""
    return run("torch", "1x1x1", 1, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(("framework", "mesh", "world"), TWO)
def test_two_processes_are_one(framework, mesh, world, one, tmp_path):
    assert_same_run(run(framework, mesh, world, tmp_path), one, STEPS)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """PyTorch in one process, for a hundred steps."""
    return run("torch", "1x1x1", 1, tmp_path_factory.mktemp("long"), steps=100)


@pytest.mark.sweep
@pytest.mark.parametrize(("framework", "mesh", "world"), LONG)
def test_a_hundred_steps_from_scratch_are_the_same(framework, mesh, world, long, tmp_path):
    assert_same_run(run(framework, mesh, world, tmp_path, steps=100), long, 100)
