"""The table "Compile time of hierarchies" of docs/benchmarks.md: scanned blocks against blocks one by one.

    python -m benchmarks.compile_time [--devices 1] [NAME ...]

Seconds to trace, lower and compile a training step of the recipe `imagenet_seed` in bfloat16 at a model's own depth and
size of images, with a batch of 8, on the CPU. No array is made.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from parity import recipes
from parity.configs import Execution
from parity.html_report import markdown_table
from vit_jax import random
from vit_jax.sharding import batch_sharding, make_mesh
from vit_jax.train_step import make_trainer

NAMES = ("swin_base_patch4_window7_224", "pvt_v2_b5")


def seconds_of(name: str, *, scan: bool, devices: int) -> tuple[float, int]:
    """Seconds to compile, and lines of the program before that."""
    execution = Execution(scan=scan, remat="block")
    recipe = recipes.get("imagenet_seed", model=name, batch_size=8, execution=execution)
    mesh = make_mesh(data=1, fsdp=devices, devices=jax.devices()[:devices])
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        trainer = make_trainer(recipe, recipe.config(), mesh)
        rows = batch_sharding(mesh)
        batch = {
            key: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
            for key, (shape, dtype) in trainer.objective.batch().items()
        }
        lowered = trainer.lower(trainer.abstract_state(), batch, jax.eval_shape(lambda: random.key(0)))
        lowered.compile()
    return time.perf_counter() - start, len(lowered.as_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_time", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    rows = []
    for name in arguments.names:
        for scan in (True, False):
            seconds, lines = seconds_of(name, scan=scan, devices=arguments.devices)
            rows.append([f"`{name}`", "scanned" if scan else "one by one", f"{seconds:.1f} s", f"{lines}"])
    print(markdown_table(["model", "blocks", "compile", "lines"], rows))


if __name__ == "__main__":
    main()
