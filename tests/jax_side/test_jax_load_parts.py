"""Loading onto a mesh reads from the file what each device holds, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity import checkpoints, configs
from parity.checkpoints.leaf import Leaf

WORKER = Path(__file__).with_name("load_parts_worker.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "model"
    config = configs.get("vit_test", embed_dim=64, num_heads=8, mlp_dim=128, num_classes=16, depth=2)
    rng = np.random.default_rng(0)
    shapes = checkpoints.parameter_shapes(config)
    checkpoints.write(path, config, {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()})
    command = [sys.executable, str(WORKER), str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("mesh", ["8 fsdp", "8 tensor", "mixed", "data", "2x4", "bfloat16"])
def test_each_device_reads_what_it_holds(results, mesh):
    assert results[mesh]["equal"]
    assert results[mesh]["too_much"] == []
    assert results[mesh]["dtypes"] == ["bfloat16" if mesh == "bfloat16" else "float32"]
    assert bool(results[mesh]["split"]) == (mesh != "data")


def test_eight_parts_are_an_eighth_each(results):
    # What isn't split is read once for all devices, which here is an eighth for each as well.
    assert results["8 fsdp"]["of_all_on_each_device"] == 0.125
    assert results["8 fsdp"]["split"] > 10


RULES = {
    "linear": (Leaf("weight", "i o -> o i"), (6, 8)),
    "qkv": (Leaf("weight", "i o -> o i"), (6, 3, 4, 5)),
    "qkv bias": (Leaf("bias", "o -> o"), (3, 4, 5)),
    "conv": (Leaf("weight", "h w i o -> o i h w"), (4, 2, 3, 8)),
    "as it is": (Leaf("pos_embed", "a0 a1 a2 -> a0 a1 a2"), (1, 7, 8)),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_part_is_the_part_of_the_whole(kind):
    rule, shape = RULES[kind]
    rng = np.random.default_rng(0)
    value = rng.normal(size=shape)
    canonical = rule.to_canonical(value)
    read = []

    def read_part(index):
        read.append(canonical[index])
        return canonical[index]

    for _ in range(200):
        bounds = [sorted(rng.integers(0, size + 1, 2)) for size in shape]
        index = tuple(slice(None) if rng.random() < 0.3 else slice(int(a), int(b)) for a, b in bounds)
        read.clear()
        expected = value[index]
        assert np.array_equal(rule.read_part(read_part, shape, index), expected)
        assert expected.size == 0 or sum(part.size for part in read) == expected.size
