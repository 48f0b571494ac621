"""Trains a recipe on 4 simulated devices; prints losses, parameters' digest and metrics of each run as JSON.

Arguments: the recipe as JSON, the data directory, the step after which to hang (0: none), and the runs' directories.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import jax

from parity import checkpoints, recipes
from parity.runs.metrics import read_metrics
from vit_jax.train import train


def run(recipe: str, directory: str, data_dir: str, hang_after: str) -> dict:
    losses = {}

    def on_step(step, metrics):
        losses[step] = float(metrics["loss"]).hex()
        if step == int(hang_after):
            while not (Path(directory) / "checkpoints" / str(step // 4 * 4)).exists():
                time.sleep(0.01)
            sys.stdout.write("hanging\n")
            sys.stdout.flush()
            time.sleep(600)

    result = train(recipes.from_dict(json.loads(recipe)), directory, data_dir=data_dir, on_step=on_step)
    digest = hashlib.sha256()
    tensors = checkpoints.read(result.model).tensors
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    steps = [record["step"] for record in read_metrics(directory) if "train/loss" in record]
    logged = [record["train/loss"].hex() for record in read_metrics(directory) if "train/loss" in record]
    return {
        "losses": losses,
        "digest": digest.hexdigest(),
        "steps": steps,
        "logged": logged,
        "accuracy": result.evaluation.accuracy,
    }


def main() -> None:
    recipe, data_dir, hang_after, *directories = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 4)
    results = [run(recipe, directory, data_dir, hang_after) for directory in directories]
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
