"""The table "Hierarchies on a CPU" of docs/benchmarks.md: forward, and forward and backward, beside timm.

    PEERS/bin/python -m benchmarks.hierarchy_speed [--batch 4] [--rounds 4] [NAME ...]

Every case is run twice in each round, of which the second counts, so that none pays for what another left behind; the
least time of all rounds counts. On a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax.numpy as jnp
import numpy as np
import timm
import torch
from flax import nnx

import vit_jax
import vit_torch
from parity import configs
from parity.html_report import markdown_table

from .cpu_speed import of_nnx, of_torch

NAMES = ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pvt_v2_b0", "pvt_v2_b2")


def times_of(name: str, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each case and column."""
    config = configs.get(name)
    height, width = config.image_size
    images = np.random.default_rng(0).standard_normal((batch, height, width, config.in_chans)).astype(np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    cases = {
        "`vit_jax`": of_nnx(vit_jax.create_model(config, rngs=nnx.Rngs(0)), jnp.asarray(images)),
        "`vit_torch`": of_torch(vit_torch.create_model(config), pixels),
        "timm": of_torch(timm.create_model(name), pixels),
    }
    found = {case: dict.fromkeys(runs, float("inf")) for case, runs in cases.items()}
    for _ in range(rounds):
        for case, runs in cases.items():
            for column, run in runs.items():
                run()
                start = time.perf_counter()
                run()
                found[case][column] = min(found[case][column], time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hierarchy_speed", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names:
        found = times_of(name, arguments.batch, arguments.rounds)
        for case, seconds in found.items():
            cells = [f"{value:.3f} s ({value / found['timm'][column]:.2f})" for column, value in seconds.items()]
            rows.append([f"`{name}`", case, *cells])
    print(markdown_table(["model", "", "forward", "forward and backward"], rows))


if __name__ == "__main__":
    main()
