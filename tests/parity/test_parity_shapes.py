"""Names, shapes and parameter counts of every registered model are equal on both sides; nothing is allocated."""

from __future__ import annotations

import jax
import pytest
from flax import nnx

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from benchmarks.reduced import distinct_options, representatives
from parity import checkpoints, configs
from parity.checkpoints.shapes import is_statistic

NAMES = configs.names()
GROUPS = distinct_options(NAMES, depth=2)
FEW = representatives(GROUPS)
SWEPT = [
    pytest.param(config, id=names[0], marks=() if config in FEW else pytest.mark.sweep)
    for config, names in GROUPS.items()
]


def check(config):
    left = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(params=0)))
    right = vit_torch.create_model(config, device="meta")
    # Nothing is allocated.
    leaves = jax.tree.leaves(nnx.state(left, nnx.Param))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert all(parameter.is_meta for parameter in right.parameters())
    # Names and shapes; also those that need no framework.
    shapes = vit_jax.state_dict.canonical_shapes(left)
    assert shapes == vit_torch.state_dict.canonical_shapes(right) == checkpoints.parameter_shapes(config)
    # A Flax leaf may have more axes; it may not have more numbers.
    count = checkpoints.parameter_count(config)
    assert sum(leaf.size for leaf in leaves) == count == sum(p.numel() for p in right.parameters())
    # And nothing but parameters and statistics.
    statistics = {name for name in shapes if is_statistic(name)}
    assert len(jax.tree.leaves(nnx.state(left))) == len(leaves) + len(statistics) == len(shapes)
    assert {name for name, _ in right.named_buffers()} == statistics


@pytest.mark.parametrize("config", SWEPT)
def test_every_set_of_options(config):
    check(config)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_huge_patch16_sapiens2"])
def test_a_whole_model(name):
    check(configs.get(name))


@pytest.mark.sweep
def test_every_registered_model_in_torch():
    for name in NAMES:
        config = configs.get(name).shortened(2)
        model = vit_torch.create_model(config, device="meta")
        assert vit_torch.state_dict.canonical_shapes(model) == checkpoints.parameter_shapes(config), name
