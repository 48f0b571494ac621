"""The training step stays compilable for a real TPU: bfloat16, scan, remat, parameters split over 8 chips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libtpu", reason="the [tpu] extra isn't installed")

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@pytest.fixture(scope="module")
def compiled():
    script = Path(__file__).with_name("compile_worker.py")
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_compiles_for_a_tpu(compiled):
    assert compiled["platform"] == "tpu"
    assert compiled["temp_bytes"] > 0
    assert compiled["bfloat16_dots"] > 0


def test_parameters_are_gathered_when_they_are_needed(compiled):
    # A few in the scanned body and its backward pass, and not some for each block.
    assert 0 < compiled["collectives"]["all-gather"] < 20
    assert compiled["collectives"]["all-reduce"] + compiled["collectives"]["reduce-scatter"] > 0


def test_a_chip_holds_an_eighth_of_the_state(compiled):
    eighth = compiled["state_bytes"] / 8
    assert eighth <= compiled["shard_bytes"] < 1.1 * eighth
    # The compiler pads the last axis, of 64 in qkv and 48 in the patches, to 128 lanes.
    assert compiled["shard_bytes"] <= compiled["alias_bytes"] < 1.5 * eighth
    # The new state takes the place of the old one.
    assert compiled["argument_bytes"] - compiled["alias_bytes"] < 2 * compiled["batch_bytes"] / 8


def test_the_batch_is_split_in_the_scanned_blocks_too(compiled):
    # If every chip computed the whole batch, activations of 64 images would need several times as much.
    one_activation = 64 * 197 * 384 * 2
    assert compiled["temp_bytes"] < 10 * one_activation
