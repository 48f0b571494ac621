"""One of some processes that train together: `parallel_worker.py FRAMEWORK MESH STEPS RANK WORLD ADDRESS DIRECTORY`.

MESH is 2x2x2 for as many simulated devices of each process; PyTorch has one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from parity.recipes import MeshShape, Recipe


def flax(recipe: Recipe, rank: int, world: int, address: str, directory: Path) -> None:
    import jax

    from vit_jax.train import train

    mesh = recipe.mesh
    jax.config.update("jax_num_cpu_devices", mesh.data * mesh.fsdp * mesh.tensor // world)
    if world > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, world, rank)
    train(recipe, directory)


def pytorch(recipe: Recipe, rank: int, world: int, address: str, directory: Path) -> None:
    import torch

    from vit_torch.train import train

    if world == 1:
        train(recipe, directory)
        return
    torch.distributed.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=world)
    try:
        train(recipe, directory)
    finally:
        torch.distributed.destroy_process_group()


def main(framework: str, mesh: str, steps: str, rank: str, world: str, address: str, directory: str) -> None:
    from training_runs import parallel

    data, fsdp, tensor = map(int, mesh.split("x"))
    recipe = parallel(int(steps), MeshShape(data=data, fsdp=fsdp, tensor=tensor))
    {"flax": flax, "torch": pytorch}[framework](recipe, int(rank), int(world), address, Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
