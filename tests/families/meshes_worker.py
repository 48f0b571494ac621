"""Run in the laid-over copy, on eight simulated devices: training steps of both families on every kind of mesh."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np

import vit_jax.random
from parity.checks.runs import batches_of, source_of
from parity.checks.training import recipe_of
from parity.compare import compare, layer_scales
from parity.configs import get
from parity.recipes import Recipe
from vit_jax.sharding import batch_sharding, make_mesh
from vit_jax.train_step import make_trainer

MESHES: dict[str, Mapping[str, int]] = {
    "data 8": dict(data=8),
    "data 1, fsdp 4, tensor 2": dict(data=1, fsdp=4, tensor=2),
    "data 2, fsdp 2, tensor 2": dict(data=2, fsdp=2, tensor=2),
}
STEPS = 2


def first_batches(recipe: Recipe, config: Any) -> list[dict[str, np.ndarray]]:
    """As many as there are steps."""
    with closing(batches_of(source_of(recipe), recipe, config)) as batches:
        return [next(batches) for _ in range(STEPS)]


def first_state(recipe: Recipe, config: Any) -> Any:
    """The state of the seed, on no mesh, so that its program is compiled once."""
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = make_trainer(recipe, config, mesh).init(recipe.seed)
    return jax.tree.map(np.asarray, state)


def steps(
    recipe: Recipe, config: Any, mesh: Any, first: Any, batches: list[dict[str, np.ndarray]]
) -> tuple[dict[str, Any], int]:
    """Losses, gradient norms and the state after some steps; and how many arrays of the state are split."""
    with jax.set_mesh(mesh):
        trainer = make_trainer(recipe, config, mesh)
        state = jax.device_put(first, trainer.shardings)
        found: dict[str, Any] = {}
        for step, batch in enumerate(batches, start=1):
            placed = {name: jax.device_put(value, batch_sharding(mesh)) for name, value in batch.items()}
            state, metrics = trainer.step(state, placed, vit_jax.random.key(recipe.seed))
            found |= {f"{name} {step}": np.asarray(metrics[name]) for name in ("loss", "grad_norm")}
        values = state.params | state.statistics
        split = sum(not value.sharding.is_fully_replicated for value in values.values())
        return found | {name: np.asarray(value) for name, value in values.items()}, split


def distances(name: str) -> dict[str, Any]:
    """How far every mesh is from one device."""
    config = get(name)
    recipe = recipe_of(config)
    recipe = Recipe(**{**vars(recipe), "model": name, "precision": "float64", "steps": 10, "label_smoothing": 0.0})
    # As few units as there can be: what takes long is to compile a program for each mesh.
    config = recipe.config(10).shortened(1)
    batches = first_batches(recipe, config)
    first = first_state(recipe, config)
    reference, _ = steps(recipe, config, make_mesh(data=1, devices=jax.devices()[:1]), first, batches)
    apart, split = {}, {}
    for label, sizes in MESHES.items():
        found, split[label] = steps(recipe, config, make_mesh(**sizes), first, batches)
        differences = compare(found, reference, layer_scales(reference)).differences
        curves = [one for one in differences if one.name.startswith(("loss", "grad_norm"))]
        state = [one for one in differences if one not in curves]
        apart[label] = {
            kind: max((one.relative_l2, one.name) for one in some)
            for kind, some in (("curves", curves), ("state", state))
        }
    moved = {key for key, value in reference.items() if "running" in key and np.ptp(value) > 0}
    return {"apart": apart, "split": split, "statistics": sorted(moved)}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    print(json.dumps({name: distances(name) for name in ("toy_pyramid", "toy_towers")}))
