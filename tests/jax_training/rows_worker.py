"""One of several processes that train on several meshes: `rows_worker.py DIRECTORY RANK WORLD ADDRESS MESH...`.

Each has its part of four CPU devices. The first prints, by mesh, the losses of every step and what the evaluation says.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax

from parity import recipes
from parity.configs.augmentation import Augmentation
from parity.recipes import MeshShape
from parity.runs.metrics import read_metrics
from vit_jax.train import train

DEVICES = 4
RECIPE = recipes.get(
    "digits",
    overrides={"depth": 1, "embed_dim": 16, "mlp_dim": 32, "num_heads": 4},
    # The test split's 360 images leave a part of the last batch.
    batch_size=56,
    steps=3,
    optimizer=recipes.Optimizer(learning_rate=3e-3, weight_decay=0.05),
    data=recipes.Data(name="digits", augmentation=Augmentation(shift=1, mixup=0.8, cutmix=1.0), num_threads=0),
    accumulate=2,
    drop_rate=0.1,
    drop_path_rate=0.2,
    precision="float64",
    log_every=1,
)


def run(directory: Path, mesh: str, devices: list[jax.Device] | None = None) -> dict[str, object]:
    """The losses, and what the evaluation of all processes together found."""
    data, fsdp, tensor = map(int, mesh.split("x"))
    recipe = dataclasses.replace(RECIPE, mesh=MeshShape(data=data, fsdp=fsdp, tensor=tensor))
    evaluation = train(recipe, directory / mesh, devices=devices).evaluation
    losses = [line["train/loss"] for line in read_metrics(directory / mesh) if "train/loss" in line]
    return {
        "losses": losses,
        "loss": evaluation.loss,
        "count": evaluation.count,
        "predictions": evaluation.predictions.tolist(),
        "labels": evaluation.labels.tolist(),
    }


def main(directory: str, rank: str, world: str, address: str, *meshes: str) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES // int(world))
    jax.config.update("jax_disable_most_optimizations", True)
    if int(world) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, int(world), int(rank))
    results = {mesh: run(Path(directory), mesh) for mesh in meshes}
    if int(world) == 1:
        results["one"] = run(Path(directory) / "one", "1x1x1", jax.devices()[:1])
    if int(rank) == 0:
        sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
