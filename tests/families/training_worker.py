"""Run in the laid-over copy: runs of both families that stop in one framework and go on in the other; prints JSON."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vit_jax
import vit_jax.state_dict
import vit_jax.train
import vit_torch
import vit_torch.state_dict
import vit_torch.train
from parity import configs
from parity.bridge import convert_training, read_training
from parity.checkpoints import open_checkpoint
from parity.checks.training import recipe_of
from parity.checks.twins import exact_jax
from parity.compare import compare, not_identical
from parity.recipes import Recipe
from parity.runs.metrics import read_metrics

STEPS, HALF = 4, 2
OTHER = {"flax": "torch", "torch": "flax"}


def recipe_for(name: str) -> Recipe:
    """A few steps with everything that the family may have; the batch is small."""
    recipe = recipe_of(configs.get(name))
    optimizer = dataclasses.replace(recipe.optimizer, warmup_steps=0, layer_decay=0.8)
    changes: dict[str, Any] = dict(model=name, precision="float64", steps=STEPS, checkpoint_every=HALF, log_every=1)
    return dataclasses.replace(recipe, **changes, batch_size=8, label_smoothing=0.0, optimizer=optimizer)


def train(framework: str, recipe: Recipe, directory: Path) -> Any:
    """A run, or what is left of it."""
    if framework == "flax":
        return vit_jax.train.train(recipe, directory, devices=jax.devices()[:1])
    return vit_torch.train.train(recipe, directory)


def runs(name: str, folder: Path) -> dict[str, Any]:
    """For each framework: how far a run that went on in the other one is from the run that didn't stop."""
    recipe, found = recipe_for(name), {}
    for first, other in OTHER.items():
        whole, stopped, moved = (folder / f"{first}-{what}" for what in ("whole", "stopped", "moved"))
        finished = train(first, recipe, whole)
        shutil.copytree(whole, stopped)
        shutil.rmtree(stopped / "checkpoints" / str(STEPS))
        assert convert_training(stopped, moved, to=other).step == HALF
        continued = train(other, recipe, moved)
        one, two = (read_training(directory) for directory in (moved, whole))
        trees = {"params": (one.params, two.params), "ema": (one.ema, two.ema)}
        trees |= {kind: (one.moments[kind], two.moments[kind]) for kind in one.moments}
        comparisons = {kind: compare(left or {}, right or {}) for kind, (left, right) in trees.items()}
        found[first] = {
            "steps": [finished.steps, continued.steps],
            "apart": {kind: compared.worst.relative_l2 for kind, compared in comparisons.items() if compared.worst},
            "lacking": [
                name for compared in comparisons.values() for name in (*compared.only_left, *compared.only_right)
            ],
            "kinds": list(comparisons),
            "losses": [
                [line["train/loss"] for line in read_metrics(run) if "train/loss" in line] for run in (moved, whole)
            ],
            "exported": exported(continued.model),
        }
    return found


def exported(path: Path) -> dict[str, Any]:
    """What a run leaves is a checkpoint that both load."""
    opened = open_checkpoint(path)
    with exact_jax(np.float64):
        flax = vit_jax.load(path)
    torch = vit_torch.load(path)
    left, right = vit_jax.state_dict.state_dict(flax), vit_torch.state_dict.state_dict(torch)
    moved = [key for key, value in opened.tensors.items() if "running" in key and np.ptp(np.asarray(value)) > 0]
    return {"name": opened.name, "differ": not_identical(left, right), "statistics": moved}


if __name__ == "__main__":
    # Compiling takes longest, and a run that goes on has the program of the one that didn't stop.
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "cache"))
        names = sys.argv[1:] or ["toy_pyramid", "toy_towers"]
        print(json.dumps({name: runs(name, Path(folder) / name) for name in names}))
