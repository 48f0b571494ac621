"""Restores a run onto eight simulated devices and saves it from there; prints the parts of a moment as JSON.

Arguments: the run's directory, and the directory to save to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from parity.runs import read_recipe
from vit_jax.run_checkpoints import RunDirectory
from vit_jax.sharding import make_mesh
from vit_jax.train_step import make_trainer


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    jax.config.update("jax_num_cpu_devices", 8)
    recipe = read_recipe(source)
    config = recipe.config(10)
    with jax.enable_x64(recipe.precision == "float64"):
        abstract = make_trainer(recipe, config, make_mesh(data=2, fsdp=2, tensor=2)).abstract_state()
        with RunDirectory(source, recipe, config, resume=True) as run:
            state, position = run.restore(abstract)
        with RunDirectory(target, recipe, config, resume=False) as run:
            run.save(int(state.step), state, position)
    # 12 x 20, in halves of both.
    parts = {str(shard.index) for shard in state.ema["blocks.0.mlp.fc1.weight"].addressable_shards}
    print(json.dumps({"parts": len(parts)}))


if __name__ == "__main__":
    main()
