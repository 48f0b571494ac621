"""Runs the digits recipe on 8 simulated devices; prints the evaluation as JSON. Arguments: run and data directory."""

from __future__ import annotations

import json
import sys

import jax

from parity import recipes
from vit_jax.train import train


def main() -> None:
    directory, data_dir = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 8)
    result = train(recipes.get("digits", mesh=recipes.MeshShape(fsdp=2)), directory, data_dir=data_dir)
    sys.stdout.write(json.dumps({"accuracy": result.evaluation.accuracy, "count": result.evaluation.count}) + "\n")


if __name__ == "__main__":
    main()
