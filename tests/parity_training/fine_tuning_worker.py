"""One of two processes with two devices each: `fine_tuning_worker.py RECIPE_JSON DIRECTORY RANK ADDRESS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from parity.recipes import from_dict
from vit_jax.train import train

WORLD, DEVICES = 2, 2


def main(file: str, directory: str, rank: str, address: str) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, WORLD, int(rank))
    train(from_dict(json.loads(Path(file).read_text())), directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
