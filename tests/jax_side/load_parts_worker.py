"""Loads one checkpoint over many meshes of 8 simulated devices; prints how much was read as JSON.

A process of its own, because the number of simulated devices is fixed when JAX starts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import jax
import numpy as np

import vit_jax
from parity import checkpoints
from parity.checkpoints.containers.stored import FileTensors
from vit_jax.sharding import make_mesh
from vit_jax.state_dict import named_leaves, state_dict

# Sizes of data, fsdp and tensor.
MESHES = {"8 fsdp": (1, 8, 1), "8 tensor": (1, 1, 8), "mixed": (2, 2, 2), "data": (8, 1, 1), "2x4": (2, 4, 1)}


def run(path: str, shape: tuple[int, ...], dtype: str | None) -> dict:
    read, tensors = Counter(), checkpoints.open_tensors(path)
    slice_ = FileTensors.slice

    def counting(self, name, index):
        part = slice_(self, name, index)
        read[name] += part.nbytes
        return part

    FileTensors.slice = counting
    try:
        model = vit_jax.load(
            path, mesh=make_mesh(**dict(zip(("data", "fsdp", "tensor"), shape, strict=True))), dtype=dtype
        )
    finally:
        FileTensors.slice = slice_
    expected = {name: tensor if dtype is None else tensor.astype(dtype) for name, tensor in tensors.items()}
    found = state_dict(model)
    too_much = []
    for name, variable, _, _ in named_leaves(model):
        value = variable[...]
        copies = 1 if value.sharding.is_fully_replicated else len(jax.devices())
        # What is on the devices, in the file's own precision.
        held = copies * value.addressable_shards[0].data.size * tensors.dtypes()[name].itemsize
        if read[name] != held:
            too_much.append(f"{name}: read {read[name]}, held {held}")
    return {
        "equal": all(np.array_equal(found[name], value) for name, value in expected.items()),
        "dtypes": sorted({str(value.dtype) for value in found.values()}),
        "too_much": too_much,
        "of_all_on_each_device": sum(read.values())
        / len(jax.devices())
        / sum(value.nbytes for value in tensors.values()),
        "split": sum(not variable[...].sharding.is_fully_replicated for _, variable, _, _ in named_leaves(model)),
    }


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    path = sys.argv[1]
    results = {name: run(path, shape, None) for name, shape in MESHES.items()}
    results["bfloat16"] = run(path, MESHES["8 fsdp"], "bfloat16")
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
