"""Positions that are resized as a model runs: both twins against float64, rounded once to the model's precision."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax.layers.pos_embed
import vit_torch.layers.pos_embed
import vit_torch.state_dict
from parity import configs
from parity.checkpoints.resize import KERNELS, resize_grid
from parity.checks.twins import exact_jax
from parity.compare import compare
from parity.tolerances import RESIZED_POSITIONS

CONFIG = configs.get("vit_test_reg_scale", dynamic_image_size=True, pos_embed_prefix="class")
GRIDS = [(9, 4), (3, 11), (12, 10)]


def both(table: np.ndarray, config: configs.Config, grid: tuple[int, int], dtype: str) -> dict[str, np.ndarray]:
    """Positions of another grid by framework, in float64."""
    own = dict(own_grid_size=config.grid_size, num_prefix=config.num_pos_embed_prefix, kernel=config.pos_embed_resize)
    with exact_jax(dtype):
        left = vit_jax.layers.pos_embed.learned_positions(jnp.asarray(table, dtype), grid, **own)
    given = torch.tensor(table, dtype=getattr(torch, dtype))
    right = vit_torch.layers.pos_embed.learned_positions(given, grid, **own)
    assert (str(left.dtype), right.dtype) == (dtype, given.dtype)
    return {"flax": np.asarray(left).astype(np.float64), "torch": right.double().numpy()}


@pytest.mark.parametrize("dtype", RESIZED_POSITIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_resized_positions_are_rounded_once(kernel, dtype):
    config = configs.replace(CONFIG, pos_embed_resize=kernel)
    table = np.random.default_rng(0).standard_normal((1, 1 + config.num_patches, 48))
    # What the model holds is exact; the rest is the resize's error.
    held = torch.tensor(table, dtype=getattr(torch, dtype)).double().numpy()
    for grid in GRIDS:
        resized = resize_grid(held[0, 1:].reshape(*config.grid_size, -1), grid, kernel)
        expected = np.concatenate([held[:, :1], resized.reshape(1, -1, 48)], axis=1)
        for framework, found in both(held, config, grid, dtype).items():
            limit = RESIZED_POSITIONS[dtype].limit
            assert compare({framework: found}, {framework: expected}).ok(limit), (framework, grid)
