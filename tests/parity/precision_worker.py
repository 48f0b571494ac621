"""Holds gradients against float64 on meshes of 8 simulated devices: `precision_worker.py 8x1x1 1x8x1`.

Prints what failed, and the worst relative error of Flax in bfloat16, by mesh, as JSON. A process of its own, because
the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax

import vit_jax.sharding
from parity import configs
from parity.checks import check_precision
from parity.checks.training import recipe_of
from parity.configs import Execution

# 128 images have 32,768 tokens.
CONFIG = configs.get("vit_digits", image_size=16, patch_size=1, depth=2, embed_dim=32, num_heads=2, mlp_dim=64)
WAYS = {
    "plain": {},
    "everything": {"execution": Execution(scan=True, remat="block"), "accumulate": 2},
}


def main(*meshes: str) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    # There is much to compile and little to run.
    jax.config.update("jax_disable_most_optimizations", True)
    found = {}
    for mesh in meshes:
        data, fsdp, tensor = map(int, mesh.split("x"))
        devices = jax.devices()[: data * fsdp * tensor]
        shape = vit_jax.sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)
        # What a mesh does by itself shows on the one that splits everything.
        for way, changes in WAYS.items() if mesh == "2x2x2" else [("everything", WAYS["everything"])]:
            recipe = dataclasses.replace(recipe_of(CONFIG), **changes)
            report = check_precision(CONFIG, dtypes=["bfloat16"], recipe=recipe, mesh=shape)
            worst = report["bfloat16"]["flax gradients"].worst
            found[f"{mesh} {way}"] = {"failures": report.failures, "worst": [worst.name, worst.relative_l2]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
