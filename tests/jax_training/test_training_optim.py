"""The optimiser: which tensors decay, the schedule, and steps against the formulas of AdamW and SGD."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from parity import configs, recipes
from parity.tolerances import FORMULA, FORMULA_FLOAT32
from vit_jax.models import create_model
from vit_jax.optim import decay_mask, learning_rate, learning_rate_scales, make_optimizer

OPTIMIZER = recipes.Optimizer(
    learning_rate=3e-3,
    min_learning_rate=1e-4,
    warmup_steps=5,
    weight_decay=0.1,
    clip_norm=0.5,
    b1=0.8,
    b2=0.95,
    eps=1e-6,
)


def abstract(name: str):
    return nnx.eval_shape(lambda: create_model(configs.get(name, depth=1), rngs=nnx.Rngs(0)))


def test_decay_mask_of_a_plain_model():
    mask = decay_mask(abstract("vit_test"))
    block = [f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert {name for name, decays in mask.items() if decays} == {"patch_embed.proj.weight", "head.weight", *block}


@pytest.mark.parametrize(
    "name", ["vit_test_dist", "vit_test_reg_scale", "vit_test_swiglu", "vit_test_clip", "vit_test_map"]
)
def test_norms_biases_tokens_positions_and_scales_do_not_decay(name):
    mask = decay_mask(abstract(name))
    kept = {"bias", "cls_token", "dist_token", "reg_token", "pos_embed", "gamma", "latent"}
    for parameter, decays in mask.items():
        owner, _, last = parameter.rpartition(".")
        assert decays == (last not in kept and "norm" not in owner), parameter
    assert any(mask.values())
    assert not all(mask.values())


def test_schedule_values():
    rates = [recipes.learning_rate(step, OPTIMIZER, 25) for step in (0, 1, 4, 5, 15, 25, 99)]
    middle = (3e-3 + 1e-4) / 2
    assert rates == pytest.approx([0, 3e-3 / 5, 4 * 3e-3 / 5, 3e-3, middle, 1e-4, 1e-4], rel=FORMULA.limit)


@pytest.mark.parametrize("warmup", [0, 5, 25])
def test_schedule_in_jax_is_the_shared_one(warmup):
    optimizer = recipes.Optimizer(learning_rate=3e-3, min_learning_rate=1e-4, warmup_steps=warmup)
    with jax.enable_x64(True):
        schedule = jax.jit(partial(learning_rate, optimizer=optimizer, steps=25))
        for step in range(30):
            expected = recipes.learning_rate(step, optimizer, 25)
            rate = schedule(jnp.int32(step))
            assert rate.dtype == jnp.float64
            assert float(rate) == pytest.approx(expected, rel=FORMULA.limit, abs=0)


def test_schedule_in_float32_keeps_its_digits_to_the_end():
    optimizer = recipes.Optimizer(learning_rate=3e-3, warmup_steps=5)
    schedule = jax.jit(partial(learning_rate, optimizer=optimizer, steps=1000))
    for step in (1, 6, 500, 990, 999):
        expected = recipes.learning_rate(step, optimizer, 1000)
        assert float(schedule(jnp.int32(step))) == pytest.approx(expected, rel=FORMULA_FLOAT32.limit, abs=0)


def test_learning_rates_fall_by_the_layer_from_the_head():
    model = nnx.eval_shape(lambda: create_model(configs.get("vit_test_reg_scale", depth=3), rngs=nnx.Rngs(0)))
    scales = learning_rate_scales(model, 0.5)
    layers = {name.split(".")[0] if name[0] != "b" else name[:8]: scale for name, scale in scales.items()}
    assert layers == {
        "patch_embed": 1 / 16,
        "cls_token": 1 / 16,
        "reg_token": 1 / 16,
        "pos_embed": 1 / 16,
        "blocks.0": 1 / 8,
        "blocks.1": 1 / 4,
        "blocks.2": 1 / 2,
        "norm": 1,
        "head": 1,
    }


def adam_direction(optimizer: optax.GradientTransformation, grad: float) -> np.ndarray:
    """The first update from one gradient, in float32."""
    params = {name: jnp.zeros(1) for name in decay_mask(abstract("vit_test"))}
    state = optimizer.init(params)
    updates, _ = jax.jit(optimizer.update)({name: jnp.full(1, grad) for name in params}, state, params)
    return np.asarray(updates["norm.weight"], np.float64)


def test_bias_correction_in_float32_keeps_its_digits():
    """optax's own loses five: the first step is 1.4e-5 off, 100 times float32's rounding."""
    plain = recipes.Optimizer(learning_rate=1.0, clip_norm=None, weight_decay=0.0)
    ours = adam_direction(make_optimizer(plain, abstract("vit_test"), steps=10), 0.3)
    theirs = adam_direction(optax.adam(1.0), 0.3)
    exact = -0.3 / (0.3 + 1e-8)
    assert abs(ours / exact - 1) <= FORMULA_FLOAT32.limit
    assert abs(theirs / exact - 1) > 10 * FORMULA_FLOAT32.limit


def test_steps_follow_the_formula_of_sgd_in_float64():
    rng = np.random.default_rng(0)
    model = abstract("vit_test")
    mask, scales = decay_mask(model), learning_rate_scales(model, 0.5)
    sgd = dataclasses.replace(OPTIMIZER, name="sgd", momentum=0.8, layer_decay=0.5, clip_norm=None)
    with jax.enable_x64(True):
        optimizer = make_optimizer(sgd, model, steps=25)
        expected = {name: rng.normal(size=(3, 2)) for name in mask}
        params = {name: jnp.asarray(value) for name, value in expected.items()}
        state, trace = optimizer.init(params), dict.fromkeys(mask, 0.0)
        for step in range(8):
            grads = {name: rng.normal(size=(3, 2)) for name in mask}
            updates, state = optimizer.update({name: jnp.asarray(grad) for name, grad in grads.items()}, state, params)
            params = {name: params[name] + updates[name] for name in mask}
            rate = recipes.learning_rate(step, sgd, 25)
            for name, grad in grads.items():
                trace[name] = 0.8 * trace[name] + grad + 0.1 * mask[name] * expected[name]
                expected[name] = expected[name] - rate * scales[name] * trace[name]
                np.testing.assert_allclose(params[name], expected[name], rtol=FORMULA.limit, atol=FORMULA.limit)


def test_steps_follow_the_formula_of_adamw_in_float64():
    rng = np.random.default_rng(0)
    model = abstract("vit_test")
    mask = decay_mask(model)
    start = {name: rng.normal(size=(3, 2)) for name in mask}
    with jax.enable_x64(True):
        optimizer = make_optimizer(OPTIMIZER, model, steps=25)
        params = {name: jnp.asarray(value) for name, value in start.items()}
        state = optimizer.init(params)
        expected, mean, square = dict(start), dict.fromkeys(mask, 0.0), dict.fromkeys(mask, 0.0)
        for step in range(8):
            grads = {name: rng.normal(size=(3, 2)) * 0.01 * (step + 1) for name in mask}
            updates, state = optimizer.update({name: jnp.asarray(grad) for name, grad in grads.items()}, state, params)
            params = {name: params[name] + updates[name] for name in mask}
            norm = np.sqrt(sum((grad**2).sum() for grad in grads.values()))
            rate = recipes.learning_rate(step, OPTIMIZER, 25)
            for name, grad in grads.items():
                grad = grad * min(1, 0.5 / norm)
                mean[name] = 0.8 * mean[name] + 0.2 * grad
                square[name] = 0.95 * square[name] + 0.05 * grad**2
                move = (mean[name] / (1 - 0.8 ** (step + 1))) / (
                    np.sqrt(square[name] / (1 - 0.95 ** (step + 1))) + 1e-6
                )
                expected[name] = expected[name] - rate * (move + 0.1 * mask[name] * expected[name])
            for name in mask:
                np.testing.assert_allclose(params[name], expected[name], rtol=FORMULA.limit, atol=FORMULA.limit)
    assert norm > 0.5  # some step was clipped
