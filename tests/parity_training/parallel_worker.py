"""One of two processes that train together: `parallel_worker.py FRAMEWORK RANK ADDRESS DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

from training_runs import PARALLEL

WORLD = 2


def flax(rank: int, address: str, directory: Path) -> None:
    import jax

    from vit_jax.train import train

    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, WORLD, rank)
    train(PARALLEL, directory)


def pytorch(rank: int, address: str, directory: Path) -> None:
    import torch

    from vit_torch.train import train

    torch.distributed.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=WORLD)
    try:
        train(PARALLEL, directory)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    {"flax": flax, "torch": pytorch}[sys.argv[1]](int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
