"""The step on every mesh of 8 devices is the step on one device and the step in PyTorch, in float64.

Meshes of one axis and of all three are always run; those of two axes are a sweep.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parity.tolerances import TRAINING_LOSS, TRAINING_STATE

WORKER = Path(__file__).with_name("meshes_worker.py")
MESHES = ["1x1x8", "1x2x4", "1x4x2", "1x8x1", "2x1x4", "2x2x2", "2x4x1", "4x1x2", "4x2x1", "8x1x1"]


FEW = ["1x1x8", "1x8x1", "8x1x1", "2x2x2"]
OTHERS = [mesh for mesh in MESHES if mesh not in FEW]


def run(meshes: list[str]) -> dict:
    done = subprocess.run([sys.executable, str(WORKER), *meshes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results() -> dict:
    return run(FEW)


@pytest.fixture(scope="module")
def others() -> dict:
    return run(OTHERS)


def is_same(apart: dict[str, float]) -> bool:
    state = max(apart[part] for part in ("params", "ema", "mu", "nu"))
    return apart["loss"] <= TRAINING_LOSS["float64"].limit and state <= TRAINING_STATE["float64"].limit


def test_every_mesh_was_run(results):
    assert sorted(results["apart"]) == sorted([*FEW, "torch", "wrong"])
    assert len(set(results["losses"][1:])) == len(results["losses"]) - 1  # the first step's rate is 0
    ways = (1, 2, 4, 8)
    assert {tuple(map(int, mesh.split("x"))) for mesh in [*FEW, *OTHERS]} == {
        (data, fsdp, tensor) for data in ways for fsdp in ways for tensor in ways if data * fsdp * tensor == 8
    }


@pytest.mark.parametrize("mesh", FEW)
def test_a_mesh_of_data_fsdp_and_tensor_equals_one_device(results, mesh):
    apart = results["apart"][mesh]
    assert is_same(apart), apart


@pytest.mark.sweep
@pytest.mark.parametrize("mesh", OTHERS)
def test_a_mesh_of_two_axes_equals_one_device(others, mesh):
    apart = others["apart"][mesh]
    assert is_same(apart), apart


def test_pytorch_equals_one_device(results):
    assert is_same(results["apart"]["torch"]), results["apart"]["torch"]


def test_another_row_in_the_batch_is_noticed(results):
    assert not is_same(results["apart"]["wrong"])
