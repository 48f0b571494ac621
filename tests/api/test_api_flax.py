"""What people do with any NNX module works with these: summaries, copies, filters, transformations."""

from __future__ import annotations

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from parity import configs
from parity.compare import difference
from parity.configs import Execution
from parity.tolerances import FORWARD

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 40, 3)), jnp.float32)
EXECUTIONS = {
    "plain": Execution(),
    "scan": Execution(scan=True),
    "remat": Execution(remat="block"),
    "scan and remat": Execution(scan=True, remat="dots"),
}


def create(name: str = "vit_test", execution: Execution = Execution(), **fields: object):
    return vit_jax.create_model(name, rngs=nnx.Rngs(0), execution=execution, **fields)


@pytest.fixture(scope="module")
def model():
    return create(depth=1)


def rows(table: str) -> dict[str, str]:
    """Path of each row of a summary, and what it returns."""
    found: dict[str, str] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)]
        if len(cells) > 5 and cells[4]:
            found.setdefault(cells[1], cells[4])  # the totals at the end have no path, as the model has none
    return found


def summary(model: nnx.Module, images: jax.Array = IMAGES) -> dict[str, str]:
    console = {"width": 300, "force_terminal": False, "no_color": True, "highlight": False}
    return rows(nnx.tabulate(model, images, console_kwargs=console, column_kwargs={"no_wrap": True}))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_tabulate(execution):
    found = summary(create(execution=EXECUTIONS[execution], depth=2))
    assert found[""] == "float32[2,10]"
    assert found["patch_embed"] == "float32[2,30,48]"
    assert found["forward_features"] == found["blocks/0"] == found["blocks/1"] == "float32[2,31,48]"
    assert {"patch_embed/proj", "blocks/1/attn/qkv", "blocks/1/mlp/fc2", "norm", "head"} <= set(found)


@pytest.mark.parametrize("name", ["vit_test_rope_mixed", "vit_test_map", "vit_test_conv_stem"])
def test_tabulate_of_other_layers(name):
    config = configs.get(name).shortened(1)
    model = vit_jax.create_model(config, rngs=nnx.Rngs(0))
    width = config.num_classes or config.embed_dim
    assert summary(model, jnp.zeros((2, *config.image_size, 3)))[""] == f"float32[2,{width}]"


def test_tabulate_of_a_model_that_draws():
    model = vit_jax.create_model("vit_test", depth=1, drop_rate=0.1, rngs=nnx.Rngs(params=0, dropout=1))
    assert summary(model)[""] == "float32[2,10]"
    model.eval()
    assert summary(model)[""] == "float32[2,10]"


@pytest.mark.parametrize("name", ["vit_test_differential", "vit_test_scaling_differential"])
def test_a_summary_changes_no_other_model(name):
    """Flax leaves wrapped methods on the classes that it has seen; other classes inherit from these."""
    config = configs.get(name).shortened(1)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, *config.image_size, 3)), jnp.float32)
    model = vit_jax.create_model(config, rngs=nnx.Rngs(0))
    before = model(images)
    plain = vit_jax.create_model(configs.replace(config, differential_attention=False), rngs=nnx.Rngs(0))
    summary(plain, images)
    assert jnp.array_equal(model(images), before)
    assert not jnp.allclose(plain(images), before, rtol=FORWARD["float32"].limit)


def test_repr_is_a_page_for_each_block(model):
    longer = create(depth=2)
    block = len(repr(longer)) - len(repr(model))
    assert 0 < block < 6000
    assert len(repr(model)) < 6000 * 2
    assert "blocks=List([" in repr(model)
    assert str(model) == repr(model)


def test_state_is_a_tree(model):
    state = nnx.state(model)
    zeros = jax.tree.map(jnp.zeros_like, state)
    assert jax.tree.structure(zeros) == jax.tree.structure(state)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(leaf.size for leaf in jax.tree.leaves(state))
    assert not np.any(run(nnx.merge(graphdef, zeros), IMAGES))
    heads = nnx.All(nnx.Param, nnx.PathContains("head"))
    assert len(jax.tree.leaves(nnx.state(model, heads))) == 2


@jax.jit
def run(model: nnx.Module, images: jax.Array) -> jax.Array:
    return model(images)


@pytest.mark.parametrize("copied", [copy.deepcopy, nnx.clone, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(model, copied):
    other = copied(model)
    np.testing.assert_array_equal(run(other, IMAGES), run(model, IMAGES))
    other.head.bias[...] += 1
    assert not np.any(model.head.bias[...])


def test_transformations(model):
    expected = run(model, IMAGES)
    np.testing.assert_array_equal(nnx.jit(lambda model, images: model(images))(model, IMAGES), expected)
    assert jax.eval_shape(run, model, IMAGES).shape == nnx.eval_shape(run, model, IMAGES).shape == (2, 10)
    each = jax.vmap(lambda image: run(model, image[None])[0])(IMAGES)
    assert difference("logits", np.asarray(each), np.asarray(expected)).relative_l2 < FORWARD["float32"].limit
    grads = nnx.jit(nnx.grad(lambda model: model(IMAGES).sum()))(model)
    assert jax.tree.structure(grads) == jax.tree.structure(nnx.state(model, nnx.Param))
    for wrong in (IMAGES.astype(jnp.uint8), IMAGES.astype(jnp.int32)):
        with pytest.raises(ValueError, match=r"expected normalised floats: vit_jax\.preprocess"):
            run(model, wrong)


@pytest.mark.parametrize("method", ["__call__", "forward_features", "forward_intermediates"])
def test_raw_pixels_are_an_error_of_every_way_in(model, method):
    raw = jnp.asarray(np.random.default_rng(0).integers(0, 256, IMAGES.shape))
    run = getattr(model, method)
    for images, got in ((raw.astype(jnp.uint8), "uint8"), (raw.astype(jnp.float32), "values up to 255")):
        with pytest.raises(ValueError, match=rf"images: got {got}, expected .*: vit_jax\.preprocess\(images, model\)"):
            run(images)
