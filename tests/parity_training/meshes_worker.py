"""Trains a small model in float64 on meshes of 8 devices, on one device and in PyTorch: `meshes_worker.py 2x2x2 8x1x1`.

Each starts from the seed, and nothing is copied between them.
Prints differences as JSON. A process of its own, because the number of simulated devices is fixed when JAX starts.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import numpy as np
import torch
from training_runs import RECIPE, batches

import vit_jax.functional
import vit_jax.optim
import vit_jax.random
import vit_jax.sharding
import vit_jax.state_dict
import vit_jax.train_step
import vit_torch.optim
import vit_torch.random
import vit_torch.state_dict
import vit_torch.train_step
from parity.compare import compare
from parity.configs import Execution
from vit_jax.stacks import unstacked

STEPS = 6
RECIPE_HERE = dataclasses.replace(
    RECIPE,
    steps=STEPS,
    batch_size=32,
    optimizer=dataclasses.replace(RECIPE.optimizer, warmup_steps=2),
    overrides=RECIPE.overrides | {"depth": 2},
    # Gradients in two parts: on a mesh they could mix up rows.
    accumulate=2,
)

Trees = dict[str, dict[str, np.ndarray]]


def flax(shape: tuple[int, int, int], devices: int, data) -> tuple[list[float], Trees]:
    """Losses, and the last state by part and canonical name."""
    names = ("data", "fsdp", "tensor")
    mesh = vit_jax.sharding.make_mesh(**dict(zip(names, shape, strict=True)), devices=jax.devices()[:devices])
    losses = []
    # On a mesh the state has the blocks as one.
    recipe = dataclasses.replace(RECIPE_HERE, execution=Execution(scan=devices > 1))
    with jax.set_mesh(mesh):
        trainer = vit_jax.train_step.make_trainer(recipe, recipe.config(10), mesh)
        rules = {name: rule for name, _, rule, _ in vit_jax.state_dict.named_leaves(trainer.model)}

        def trees(state) -> Trees:
            parts = {"params": state.params, "ema": state.ema, **vit_jax.optim.moments_of(state.opt_state)}
            return {
                part: {name: rules[name].to_canonical(np.asarray(value)) for name, value in unstacked(arrays).items()}
                for part, arrays in parts.items()
            }

        state = trainer.init(0)
        for batch in data:
            batch = jax.device_put(batch, vit_jax.sharding.batch_sharding(mesh))
            state, metrics = trainer.step(state, batch, vit_jax.random.key(1))
            losses.append(float(metrics["loss"]))
        return losses, trees(state)


def pytorch(data) -> tuple[list[float], Trees]:
    trainer = vit_torch.train_step.make_trainer(RECIPE_HERE, RECIPE_HERE.config(10))
    state = trainer.init(0)
    losses = []
    for batch in data:
        batch = {name: torch.tensor(value) for name, value in batch.items()}
        state, metrics = trainer.step(state, batch, vit_torch.random.key(1))
        losses.append(float(metrics["loss"]))
    parts = {"params": state.params, "ema": state.ema, **vit_torch.optim.moments_of(state.opt_state)}
    to_numpy = vit_torch.state_dict.to_numpy
    return losses, {part: {name: to_numpy(value) for name, value in tree.items()} for part, tree in parts.items()}


def apart(losses: list[float], state: Trees, other_losses: list[float], other: Trees) -> dict[str, float]:
    found = {"loss": float(np.max(np.abs(np.array(losses) / np.array(other_losses) - 1)))}
    for part, tree in state.items():
        comparison = compare(tree, other[part])
        assert comparison.worst is not None
        assert comparison.ok(np.inf)  # the same names
        found[part] = comparison.worst.relative_l2
    return found


def main(*meshes: str) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    # There is much to compile and little to run.
    jax.config.update("jax_disable_most_optimizations", True)
    data = batches(RECIPE_HERE, STEPS)
    one_losses, one = flax((1, 1, 1), 1, data)
    results = {"torch": apart(*pytorch(data), one_losses, one)}
    for mesh in meshes:
        data_ways, fsdp, tensor = map(int, mesh.split("x"))
        losses, state = flax((data_ways, fsdp, tensor), 8, data)
        results[mesh] = apart(losses, state, one_losses, one)
    # What the bounds would say of a mesh that sums one row twice.
    wrong = [data[0] | {"image": np.concatenate([data[0]["image"][:1], data[0]["image"][:-1]])}, *data[1:]]
    losses, state = flax((1, 1, 1), 1, wrong)
    results["wrong"] = apart(losses, state, one_losses, one)
    sys.stdout.write(json.dumps({"losses": one_losses, "apart": results}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
