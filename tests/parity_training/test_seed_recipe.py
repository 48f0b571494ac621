"""The seed's recipe makes steps in both frameworks, in bfloat16 with recomputed blocks, at a small size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity import recipes
from parity.checks.runs import FlaxRun, TorchRun
from parity.configs import Execution
from parity.tolerances import TRAINING_LOSS

SEED = recipes.get("imagenet_seed")
SMALL = dataclasses.replace(
    SEED,
    overrides={"image_size": 32, "patch_size": 8, "embed_dim": 32, "mlp_dim": 64, "num_heads": 2, "depth": 2},
    batch_size=8,
    steps=3,
    optimizer=dataclasses.replace(SEED.optimizer, warmup_steps=0),
)


@pytest.mark.parametrize("remat", ["block", "dots"])
def test_steps_in_bfloat16_with_recomputed_blocks(remat):
    assert SEED.precision == "bfloat16"
    recipe = dataclasses.replace(SMALL, execution=Execution(scan=True, remat=remat))
    config, rng = recipe.config(10), np.random.default_rng(0)
    flax, pytorch = FlaxRun(recipe, config), TorchRun(recipe, config)
    batch = {
        name: (rng.integers(0, 256, shape) if name == "image" else rng.integers(0, 10, shape)).astype(dtype)
        for name, (shape, dtype) in flax.trainer.objective.batch().items()
        if name in ("image", "label")
    }
    losses = [[float(run.step(batch)["loss"]) for _ in range(recipe.steps)] for run in (flax, pytorch)]
    np.testing.assert_allclose(*losses, rtol=TRAINING_LOSS["bfloat16"].limit)
    # One batch again and again is learned.
    assert all(one[-1] < one[0] for one in losses)
