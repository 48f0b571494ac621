"""Compiles a whole training step of a model for the TPUs of a v5e:2x4, which aren't there; prints JSON of it.

A process of its own: libtpu is loaded once in a process, and reads its environment then.
"""

from __future__ import annotations

import json
import math
import re
import sys

import jax
from jax.experimental import topologies

from parity import recipes
from parity.configs import Execution
from vit_jax import random
from vit_jax.sharding import batch_sharding, make_mesh
from vit_jax.train_step import make_trainer

BATCH = 64
MODELS = {
    "vit_small_patch16_224": {"depth": 6},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2), "num_heads": (3, 6), "window_sizes": (7, 7)},
    "swinv2_tiny_window8_256": {"depths": (2, 2), "num_heads": (3, 6), "window_sizes": (8, 8)},
    "pvt_v2_b1": {
        "depths": (1, 1),
        "embed_dims": (64, 128),
        "num_heads": (1, 2),
        "mlp_dims": (512, 1024),
        "sr_ratios": (8, 4),
    },
    "resnet50": {"depths": (2, 2)},
}


def recipe_of(model: str) -> recipes.Recipe:
    """The seed's recipe for a model with fewer blocks."""
    rates = {} if model.startswith("resnet") else {"drop_path_rate": 0.1}
    return recipes.get(
        "imagenet_seed",
        model=model,
        overrides=MODELS[model],
        batch_size=BATCH,
        execution=Execution(scan=True, remat="block"),
        **rates,
    )


def main() -> None:
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    mesh = make_mesh(data=1, fsdp=8, devices=devices)
    recipe = recipe_of(sys.argv[1])
    config = recipe.config()
    with jax.set_mesh(mesh):
        trainer = make_trainer(recipe, config, mesh)
        state = trainer.abstract_state()
        rows = batch_sharding(mesh)
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
            for name, (shape, dtype) in trainer.objective.batch().items()
        }
        compiled = trainer.lower(state, batch, jax.eval_shape(lambda: random.key(0))).compile()
    text = compiled.as_text()
    memory = compiled.memory_analysis()
    collectives = {}
    for kind in ("all-gather", "all-reduce", "reduce-scatter"):
        channels = set(re.findall(rf"{kind}[^\n]*channel_id=(\d+)", text))
        collectives[kind] = len(channels)
    results = {
        "platform": devices[0].platform,
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "shard_bytes": sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
        ),
        "argument_bytes": memory.argument_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "batch_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in batch.values()),
        "collectives": collectives,
        "bfloat16_dots": len(re.findall(r"= bf16\[[^\n]* (?:convolution|dot)\(", text)),
    }
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
