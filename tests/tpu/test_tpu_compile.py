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
    # What is compiled for chips that aren't there can't be read again.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


def test_the_training_step_compiles_for_eight_chips():
    script = Path(__file__).with_name("compile_worker.py")
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout.splitlines()[-1])

    assert compiled["platform"] == "tpu"
    assert compiled["bfloat16_dots"] > 0

    # Parameters are gathered when they are needed: a few times in the scanned body, and not a few times for each block.
    assert 0 < compiled["collectives"]["all-gather"] < 20
    assert compiled["collectives"]["all-reduce"] + compiled["collectives"]["reduce-scatter"] > 0

    # A chip holds an eighth of the state; the compiler pads the last axes of qkv (64) and patches (48) to 128 lanes.
    eighth = compiled["state_bytes"] / 8
    assert eighth <= compiled["shard_bytes"] < 1.1 * eighth
    assert compiled["shard_bytes"] <= compiled["alias_bytes"] < 1.5 * eighth
    # The new state takes the place of the old one.
    assert compiled["argument_bytes"] - compiled["alias_bytes"] < 2 * compiled["batch_bytes"] / 8

    # The batch is split in the scanned blocks, too: without `constrain_batch` this is 24 activations, with it 6.
    activation = 64 * 197 * 384 * 2
    assert 0 < compiled["temp_bytes"] < 10 * activation
