"""Trains one tiny model on many meshes of 8 simulated devices; prints what came out as JSON.

A process of its own, because the number of simulated devices is fixed when JAX starts.
"""

from __future__ import annotations

import json
import math
import sys

import jax
import numpy as np

from parity import recipes
from parity.configs import Execution
from vit_jax import random
from vit_jax.sharding import batch_sharding, make_mesh
from vit_jax.train_step import make_trainer

# Devices, then data, fsdp and tensor.
MESHES = {
    "1": (1, 1, 1, 1),
    "4 tensor": (4, 1, 1, 4),
    "8 fsdp": (8, 1, 8, 1),
    "8 all": (8, 2, 2, 2),
}
RECIPE = recipes.get(
    "digits",
    overrides={"depth": 2, "embed_dim": 32, "mlp_dim": 64, "num_heads": 4},
    batch_size=16,
    steps=20,
    optimizer=recipes.Optimizer(learning_rate=1e-2, warmup_steps=5, weight_decay=0.05),
    # Masks that depended on the mesh would show in the loss.
    drop_rate=0.1,
    drop_path_rate=0.2,
    execution=Execution(scan=True),
)


def batches():
    rng = np.random.default_rng(0)
    for _ in range(RECIPE.steps):
        label = rng.integers(0, 10, RECIPE.batch_size, np.int32)
        # Something to learn: the label is the brightness.
        image = rng.integers(0, 100, (RECIPE.batch_size, 8, 8, 1)) + 15 * label[:, None, None, None]
        yield {"image": image.astype(np.uint8), "label": label}


def bytes_on(device: jax.Device, tree) -> int:
    shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards if shard.device == device]
    return sum(shard.data.nbytes for shard in shards)


def run(name: str) -> dict:
    devices, *shape = MESHES[name]
    mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), shape, strict=True)), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        trainer = make_trainer(RECIPE, RECIPE.config(), mesh)
        state = trainer.init(0)
        first = {key: np.asarray(value) for key, value in state.params.items()}
        sizes = [bytes_on(jax.devices()[0], part) for part in (state.params, state.opt_state)]
        losses, norms = [], []
        for batch in batches():
            batch = jax.device_put(batch, batch_sharding(mesh))
            state, metrics = trainer.step(state, batch, random.key(1))
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
        split = [name for name, value in state.params.items() if not value.sharding.is_fully_replicated]
    return {"first": first, "losses": losses, "norms": norms, "sizes": sizes, "split": split}


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    results = {name: run(name) for name in MESHES}
    one = results["1"]["first"]
    for result in results.values():
        first = result.pop("first")
        result["init_equal"] = all(np.array_equal(first[name], one[name]) for name in one)
        result["finite"] = math.isfinite(sum(result["losses"]))
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
