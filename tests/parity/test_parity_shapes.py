"""Names, shapes and parameter counts of every registered model are equal on both sides; nothing is allocated."""

from __future__ import annotations

import math

import jax
import pytest
from flax import nnx

import vit_jax
import vit_jax.state
import vit_torch
import vit_torch.state
from parity import checkpoints, configs

NAMES = configs.names()
CHUNKS = 4
# Tracing a Flax model takes time quadratic in its depth, so whole ones are one for each depth.
DEPTHS = {configs.get(name).depth: name for name in NAMES}


def check(config):
    left = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))
    right = vit_torch.create_model(config, device="meta")
    # Nothing is allocated.
    leaves = jax.tree.leaves(nnx.state(left, nnx.Param))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert all(parameter.is_meta for parameter in right.parameters())
    # Names and shapes; also those that need no framework.
    shapes = vit_jax.state.canonical_shapes(left)
    assert shapes == vit_torch.state.canonical_shapes(right) == checkpoints.parameter_shapes(config)
    # A Flax leaf may have more axes; it may not have more numbers.
    count = sum(math.prod(shape) for shape in shapes.values())
    assert sum(leaf.size for leaf in leaves) == count == sum(p.numel() for p in right.parameters())
    # And nothing but parameters.
    assert len(jax.tree.leaves(nnx.state(left))) == len(leaves)
    assert not list(right.buffers())


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_registered_model(chunk):
    names = NAMES[chunk::CHUNKS]
    assert names
    for name in names:
        check(configs.get(name, depth=2))


@pytest.mark.parametrize("depth", sorted(DEPTHS))
def test_every_registered_depth(depth):
    check(configs.get(DEPTHS[depth]))


def test_every_registered_model_as_a_whole_in_torch():
    for name in NAMES:
        model = vit_torch.create_model(name, device="meta")
        assert vit_torch.state.canonical_shapes(model) == checkpoints.parameter_shapes(configs.get(name)), name
