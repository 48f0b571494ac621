"""A scanned run keeps the tensors of blocks that are alike as one array, and is the run that keeps each by itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from training_runs import RECIPE, batches

import vit_jax.run_checkpoints
import vit_jax.sharding
import vit_jax.stacks
from parity.checks.runs import FlaxRun
from parity.checks.twins import exact_jax
from parity.compare import compare, not_identical
from parity.configs import Execution
from parity.runs.read_training import read_training
from parity.tolerances import TRAINING_STATE
from vit_jax.stacks import members, stack_layers, stack_names, stacked, take_layers, unstacked

# BatchNorm in the stem, layer-wise rates, an average, and everything that draws.
STACKED = dataclasses.replace(
    RECIPE,
    steps=3,
    batch_size=8,
    accumulate=2,
    execution=Execution(scan=True),
    overrides=RECIPE.overrides | {"depth": 3, "patch_size": 2, "stem": "conv", "stem_convs": [[8, 3, 2]]},
    optimizer=dataclasses.replace(RECIPE.optimizer, warmup_steps=0, clip_norm=1.0),
)
APART = dataclasses.replace(STACKED, execution=Execution())


def trained(recipe) -> FlaxRun:
    run = FlaxRun(recipe, recipe.config(10))
    for batch in batches(recipe, recipe.steps):
        run.step(batch)
    return run


@pytest.fixture(scope="module")
def runs():
    with exact_jax(np.float64):
        yield {"stacked": trained(STACKED), "apart": trained(APART)}


def test_a_scanned_state_has_fewer_arrays(runs):
    names = {kind: set(run.state.params) for kind, run in runs.items()}
    assert "blocks.0-2.attn.qkv.weight" in names["stacked"]
    assert names["apart"] == set(unstacked(runs["stacked"].state.params))
    assert runs["stacked"].state.params["blocks.0-2.mlp.fc1.bias"].shape == (3, 64)


def test_both_end_in_the_same_state(runs):
    one, other = runs["stacked"].trees(), runs["apart"].trees()
    assert one.keys() == other.keys() >= {"parameters", "mu", "nu", "ema", "statistics"}
    for kind in one:
        comparison = compare(one[kind], other[kind])
        assert comparison.ok(TRAINING_STATE["float64"].limit), (kind, comparison.worst)


@pytest.mark.parametrize(("first", "second"), [("stacked", "apart"), ("apart", "stacked")])
def test_checkpoints_are_the_same_files(runs, first, second, tmp_path):
    recipes = {"stacked": STACKED, "apart": APART}
    config = STACKED.config(10)
    with exact_jax(np.float64):
        for kind in (first, second):
            with vit_jax.run_checkpoints.RunDirectory(tmp_path / kind, recipes[kind], config, resume=False) as run:
                run.save(3, runs[kind].state, {"position": 1})
        with vit_jax.run_checkpoints.RunDirectory(tmp_path / first, recipes[second], config, resume=True) as run:
            restored, _ = run.restore(runs[second].trainer.abstract_state())
        ours = runs[first].trees()
        other = FlaxRun.__new__(FlaxRun)
        other.__dict__ |= runs[second].__dict__ | {"state": restored}
        assert [kind for kind, tree in other.trees().items() if not_identical(tree, ours[kind])] == []
    states = [read_training(tmp_path / kind) for kind in (first, second)]
    assert states[0].params.keys() == states[1].params.keys()
    assert not not_identical(states[0].params, ours["parameters"] | ours["statistics"])


def test_names_and_shapes():
    tensors = {
        "pos_embed": np.zeros((1, 5)),
        **{f"text.blocks.{i}.norm.weight": np.full(3, float(i)) for i in range(4)},
        **{f"blocks.{i}.fc.weight": np.full((2, 3 + (i == 2)), float(i)) for i in range(4)},
    }
    names = stack_names(tensors)
    assert names == [
        *("pos_embed", "text.blocks.0-3.norm.weight"),
        *("blocks.0-1.fc.weight", "blocks.2.fc.weight", "blocks.3.fc.weight"),
    ]
    assert members("text.blocks.0-3.norm.weight")[3] == "text.blocks.3.norm.weight"
    stacks = stacked(tensors, names)
    assert stacks["blocks.0-1.fc.weight"].shape == (2, 2, 3)
    assert not not_identical(unstacked(stacks), tensors)


def test_shapes_and_shardings_are_stacked_as_arrays_are():
    mesh = vit_jax.sharding.make_mesh(devices=jax.devices()[:1])
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    layer = jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=sharding)
    stack = stack_layers([layer] * 3)
    assert (stack.shape, stack.sharding.spec) == ((3, 4, 2), PartitionSpec(None, "fsdp"))
    assert [(one.shape, one.sharding) for one in take_layers(stack, 3)] == [((4, 2), sharding)] * 3
    placed = [jax.device_put(jnp.full((4, 2), float(i)), sharding) for i in range(3)]
    assert stack_layers(placed).sharding.spec == PartitionSpec(None, "fsdp")
    assert [float(one[0, 0]) for one in take_layers(stack_layers(placed), 3)] == [0, 1, 2]


def test_layers_that_were_taken_are_no_copy_when_they_are_stacked_again():
    seen = []

    def function(stack, other):
        layers, others = take_layers(stack, 4), take_layers(other, 4)
        seen.append(stack_layers(layers) is stack)
        part, mixed, turned = layers[1:3], [layers[0], others[1]], layers[::-1]
        return [stack_layers(each) for each in (layers, part, mixed, turned)]

    stack, other = jnp.arange(8.0).reshape(4, 2), -jnp.arange(8.0).reshape(4, 2)
    whole, part, mixed, turned = jax.jit(function)(stack, other)
    assert seen == [True]
    assert np.array_equal(whole, stack)
    assert np.array_equal(part, stack[1:3])
    assert np.array_equal(mixed, [stack[0], other[1]])
    assert np.array_equal(turned, stack[::-1])
    assert not vit_jax.stacks._TAKEN
