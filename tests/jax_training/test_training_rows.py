"""Rows follow from the sharding of the batch: every mesh of four devices over 1, 2 and 4 processes is one device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from training_workers import ENVIRONMENT

from parity.tolerances import TRAINING_LOSS
from vit_jax.sharding import make_mesh, process_rows, put_batch

sys.path.insert(0, str(Path(__file__).parents[1] / "parity_training"))
from training_runs import free_address

WORKER = Path(__file__).with_name("rows_worker.py")
MESHES = ("1x1x4", "1x2x2", "1x4x1", "2x1x2", "2x2x1", "4x1x1")


def run(directory: Path, world: int, *meshes: str) -> dict:
    address = free_address()
    command = [sys.executable, str(WORKER), str(directory)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), address, *meshes],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=540) for process in processes]
    assert [process.returncode for process in processes] == [0] * world, "\n".join(errors for _, errors in said)
    return json.loads(said[0][0].splitlines()[-1])


def assert_is_one(result: dict, one: dict) -> None:
    limit = TRAINING_LOSS["float64"].limit
    assert len(one["losses"]) == 3
    np.testing.assert_allclose(result["losses"], one["losses"], rtol=limit)
    np.testing.assert_allclose(result["loss"], one["loss"], rtol=limit)
    assert result["count"] == one["count"] == 360
    assert result["labels"] == one["labels"]
    assert result["predictions"] == one["predictions"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"), 1)["one"]


def test_parameters_split_between_two_processes(one, tmp_path):
    """Both hold every row of the batch, and each image counts once."""
    assert_is_one(run(tmp_path, 2, "1x1x4")["1x1x4"], one)


@pytest.mark.sweep
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_mesh_of_four_devices(world, one, tmp_path):
    for result in run(tmp_path, world, *MESHES).values():
        assert_is_one(result, one)


def test_a_batch_is_put_where_its_rows_are():
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    batch = {"image": np.arange(24).reshape(6, 2, 2, 1), "label": np.arange(6)}
    placed = put_batch(batch, mesh)
    assert process_rows(mesh, 6) == [0, 1, 2, 3, 4, 5]
    for name, value in batch.items():
        np.testing.assert_array_equal(placed[name], value)
