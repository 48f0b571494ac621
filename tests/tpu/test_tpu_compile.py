"""The training step stays compilable for a real TPU: bfloat16, scan, remat, parameters split over 8 chips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def compiled_step(model: str) -> dict[str, Any]:
    """What the compiler says of a model's step."""
    script = Path(__file__).with_name("compile_worker.py")
    command = [sys.executable, "-W", "error", str(script), model]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.sweep
@pytest.mark.skipif("VIT_PARITY_EVERY" not in os.environ, reason="minutes each; VIT_PARITY_EVERY=1 runs them")
@pytest.mark.parametrize(
    ("model", "activation"),
    [
        ("swin_tiny_patch4_window7_224", 56 * 56 * 96),
        ("swinv2_tiny_window8_256", 64 * 64 * 96),
        ("pvt_v2_b1", 56 * 56 * 64),
        ("resnet50", 56 * 56 * 256),
    ],
)
def test_the_step_of_a_hierarchy_compiles_for_eight_chips(model, activation):
    compiled = compiled_step(model)
    assert compiled["platform"] == "tpu"
    assert compiled["bfloat16_dots"] > 0
    # Parts whose axes eight chips don't divide are whole on each.
    assert compiled["state_bytes"] / 8 <= compiled["shard_bytes"] < 0.5 * compiled["state_bytes"]
    # The batch stays split: one chip holds the activations of its own 8 images. Those of all 64 would be eight times as
    # much, and each of the first stage's blocks keeps several maps of float32.
    own = 8 * activation * 4
    assert 0 < compiled["temp_bytes"] < 60 * own


def test_the_training_step_compiles_for_eight_chips():
    compiled = compiled_step("vit_small_patch16_224")

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
