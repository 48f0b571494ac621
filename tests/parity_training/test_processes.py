"""Two processes that share the batches end where one process ends: `jax.distributed`, and DistributedDataParallel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from training_runs import PARALLEL, assert_same_losses, assert_same_state, free_address

import vit_jax.train
import vit_torch.train
from parity.checkpoints import open_checkpoint
from parity.compare import compare
from parity.runs.metrics import read_metrics
from parity.tolerances import TRAINING_STATE

# There is more to compile than to run.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
WORKER = Path(__file__).with_name("parallel_worker.py")


def run_two(framework: str, directory: Path) -> None:
    address = free_address()
    command = [sys.executable, str(WORKER), framework]
    processes = [
        subprocess.Popen(
            [*command, str(rank), address, str(directory)], stderr=subprocess.PIPE, text=True, env=os.environ | QUICK
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


def run_one(framework: str, directory: Path) -> None:
    if framework == "flax":
        vit_jax.train.train(PARALLEL, directory, devices=jax.devices()[:1])
    else:
        vit_torch.train.train(PARALLEL, directory)


@pytest.mark.parametrize("framework", ["flax", "torch"])
def test_two_processes_are_one(framework, tmp_path):
    run_two(framework, tmp_path / "two")
    run_one(framework, tmp_path / "one")
    losses = [
        [line["train/loss"] for line in read_metrics(tmp_path / run) if "train/loss" in line] for run in ("two", "one")
    ]
    assert len(losses[0]) == PARALLEL.steps
    assert_same_losses(*losses)
    assert_same_state(tmp_path / "two", tmp_path / "one")
    accuracies = [
        [line["test/accuracy"] for line in read_metrics(tmp_path / run) if "test/accuracy" in line]
        for run in ("two", "one")
    ]
    assert accuracies[0] == accuracies[1] != []
    models = [open_checkpoint(tmp_path / run / "model_ema").tensors for run in ("two", "one")]
    assert compare(*models).ok(TRAINING_STATE["float64"].limit)
