"""The step on every mesh of 8 devices is the step on one device and the step in PyTorch, in float64."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parity.tolerances import TRAINING_LOSS, TRAINING_STATE

WORKER = Path(__file__).with_name("meshes_worker.py")
MESHES = ["1x1x8", "1x2x4", "1x4x2", "1x8x1", "2x1x4", "2x2x2", "2x4x1", "4x1x2", "4x2x1", "8x1x1"]


@pytest.fixture(scope="module")
def results() -> dict:
    done = subprocess.run([sys.executable, str(WORKER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def is_same(apart: dict[str, float]) -> bool:
    state = max(apart[part] for part in ("params", "ema", "mu", "nu"))
    return apart["loss"] <= TRAINING_LOSS["float64"].limit and state <= TRAINING_STATE["float64"].limit


def test_every_mesh_was_run(results):
    assert sorted(results["apart"]) == sorted([*MESHES, "torch", "wrong"])
    assert results["losses"][0] > results["losses"][-1] > 0


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_of_data_fsdp_and_tensor_equals_one_device(results, mesh):
    apart = results["apart"][mesh]
    assert is_same(apart), apart


def test_pytorch_equals_one_device(results):
    assert is_same(results["apart"]["torch"]), results["apart"]["torch"]


def test_another_row_in_the_batch_is_noticed(results):
    assert not is_same(results["apart"]["wrong"])
