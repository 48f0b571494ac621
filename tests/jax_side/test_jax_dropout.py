"""A Flax user who does what Flax's documentation teaches is regularised, or told what is missing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vit_jax
from parity import configs
from parity.configs import Execution
from vit_jax import random
from vit_jax.layers.attention import Attention
from vit_jax.layers.drop import Dropout, DropPath, dropout
from vit_jax.layers.mlp import Mlp
from vit_jax.models import Model
from vit_jax.state_dict import state_dict

RATES = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)
SMALL = dict(depth=2, num_classes=3)


def new(rngs: nnx.Rngs, **fields: object) -> Model:
    return vit_jax.create_model("vit_test", rngs=rngs, **SMALL | fields)


def images_of(model: Model) -> jax.Array:
    shape = (4, *model.config.image_size, model.config.in_chans)
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer, images: jax.Array) -> jax.Array:
    """As Flax's documentation writes one."""

    def loss(model: Model) -> tuple[jax.Array, jax.Array]:
        logits = model(images)
        return (logits**2).mean(), logits

    (_, logits), grads = nnx.value_and_grad(loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return logits


@pytest.mark.parametrize("execution", [Execution(), Execution(scan=True, remat="block")], ids=["plain", "scan"])
def test_a_train_step_of_flax_drops_anew_in_each_call(execution):
    # Without training anything, so that the masks are all that differs.
    model = new(nnx.Rngs(0), execution=execution, **RATES)
    images = images_of(model)
    optimizer = nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param)
    one, other = train_step(model, optimizer, images), train_step(model, optimizer, images)
    assert not np.array_equal(one, other)
    undropped = nnx.view(model, deterministic=True)
    assert np.array_equal(undropped(images), undropped(images))
    assert not np.array_equal(undropped(images), other)
    model.eval()
    assert np.array_equal(model(images), undropped(images))
    model.train()
    assert not np.array_equal(model(images), undropped(images))


def test_scanned_blocks_draw_what_blocks_one_by_one_draw():
    """A stream of a layer's own would repeat in each step of the scan; the model's gives each block its key."""
    found = []
    for execution in (Execution(), Execution(scan=True)):
        model = new(nnx.Rngs(0), execution=execution, **RATES | dict(depth=3))
        found.append(np.asarray(model(images_of(model))))
    np.testing.assert_array_equal(found[0] == 0, found[1] == 0)
    assert np.abs(found[0] - found[1]).max() < np.abs(found[0]).max() / 1000


def test_the_stream_is_a_state_like_any_other():
    model = new(nnx.Rngs(params=0, dropout=1), **RATES)
    images = images_of(model)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    assert jax.tree.leaves(nnx.filter_state(rest, nnx.RngState)) == jax.tree.leaves(rest)

    @jax.jit
    def run(params: nnx.State, rest: nnx.State) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, params, rest)
        return model(images), nnx.state(model, nnx.Not(nnx.Param))

    one, rest = run(params, rest)
    other, _ = run(params, rest)
    assert not np.array_equal(one, other)
    # The model was given a stream of its own, and the same stream draws the same.
    twin = new(nnx.Rngs(params=5, dropout=1), **RATES)
    twin_params = nnx.state(model, nnx.Param)
    nnx.update(twin, twin_params)
    assert np.array_equal(jax.random.key_data(twin.rngs.key[...]), jax.random.key_data(model.rngs.key[...]))


def test_a_model_can_be_made_under_jit():
    model = nnx.jit(lambda: new(nnx.Rngs(0), **RATES))()
    images = images_of(model)
    assert not np.array_equal(model(images), model(images))


def test_without_rates_there_is_no_stream():
    model = new(nnx.Rngs(0))
    assert jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param))) == []
    images = images_of(model)
    assert np.array_equal(model(images), model(images))
    # Nor do rates change the initial values of a seed.
    one, other = state_dict(model), state_dict(new(nnx.Rngs(0), **RATES))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_rescaled_coordinates_are_drawn_as_dropout_is():
    config = configs.get("vit_test_dinov3").shortened(1)
    assert config.rope.rescale is not None
    assert not any(config.drop_path_rates)
    model = vit_jax.create_model(config, rngs=nnx.Rngs(0))
    images = images_of(model)
    assert not np.array_equal(model(images), model(images))
    model.eval()
    assert np.array_equal(model(images), model(images))


@pytest.mark.parametrize("field", RATES)
def test_training_mode_without_a_key_or_a_stream_is_an_error_whose_advice_works(field, tmp_path):
    model = new(nnx.Rngs(params=0), **{field: RATES[field]})
    images = images_of(model)
    with pytest.raises(ValueError, match="key: got None in training mode for VisionTransformer") as error:
        model(images)
    assert "key=vit_jax.random.key(seed)" in str(error.value)
    model(images, key=random.key(0))
    assert "eval()" in str(error.value)
    model.eval()
    without = model(images)
    assert "give create_model or load a stream: rngs=nnx.Rngs(params=0, dropout=1)" in str(error.value)
    assert not np.array_equal(new(nnx.Rngs(params=0, dropout=1), **{field: RATES[field]})(images), without)
    vit_jax.save(model, tmp_path / "model")
    loaded = vit_jax.load(tmp_path / "model", rngs=nnx.Rngs(params=0, dropout=1))
    assert np.array_equal(loaded(images), without)
    loaded.train()
    assert not np.array_equal(loaded(images), without)


def test_a_loaded_model_is_in_evaluation_mode_and_a_new_one_in_training_mode(tmp_path):
    model = new(nnx.Rngs(0), **RATES)
    assert not model.deterministic
    images = images_of(model)
    vit_jax.save(model, tmp_path / "model")
    loaded = vit_jax.load(tmp_path / "model")
    model.eval()
    assert np.array_equal(loaded(images), model(images))
    loaded.train()
    with pytest.raises(ValueError, match="key: got None in training mode"):
        loaded(images)
    assert vit_jax.load(tmp_path / "model", rngs=nnx.Rngs(params=0)).rngs is None


@pytest.mark.parametrize(
    "layer",
    [
        Dropout(0.2),
        Attention(12, 3, attn_drop_rate=0.2, rngs=nnx.Rngs(0)),
        Attention(12, 3, drop_rate=0.2, rngs=nnx.Rngs(0)),
        Mlp(12, 16, drop_rate=0.2, rngs=nnx.Rngs(0)),
    ],
    ids=["dropout", "attention", "result", "mlp"],
)
def test_a_layer_alone_takes_a_key(layer):
    x = jnp.ones((2, 3, 12))
    with pytest.raises(ValueError, match=r"key: got None in training mode for Dropout, .* or call eval\(\)") as error:
        layer(x)
    assert "create_model" not in str(error.value)
    one = layer(x, key=random.key(0))
    layer.eval()
    assert np.array_equal(layer(x, key=random.key(0)), one)
    assert not np.array_equal(layer(x), one)


def test_a_dropout_layer_may_have_a_stream_of_its_own():
    x = jnp.ones((4, 50))
    for layer, call in ((Dropout(0.5, rngs=nnx.Rngs(0)), ()), (DropPath(rngs=nnx.Rngs(dropout=0)), (0.5,))):
        one, other = layer(x, *call), layer(x, *call)
        assert not np.array_equal(one, other) or isinstance(layer, DropPath)
        assert set(np.unique(one)) <= {0.0, 2.0}
    # A share that keeps everything needs no key.
    assert np.array_equal(DropPath()(x, None), x)
    assert np.array_equal(dropout(x, 0.5, None), x)
