"""The average of parameters, and the choice of what draws masks."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax.optim
import vit_jax.train_step
import vit_torch.random
import vit_torch.train_step
from parity import recipes
from parity.checks import check_training
from parity.checks.training import RECIPE
from parity.compare import compare
from parity.tolerances import FORMULA_FLOAT32

AVERAGED = recipes.get("digits", ema_decay=0.99999)
SIZES = dict(embed_dim=16, depth=2, num_heads=2, mlp_dim=24)


def flax(ema: np.ndarray, values: np.ndarray, share: float) -> np.ndarray:
    found = vit_jax.train_step.average({"w": jnp.asarray(ema)}, {"w": jnp.asarray(values)}, jnp.asarray(share))
    return np.asarray(found["w"])


def pytorch(ema: np.ndarray, values: np.ndarray, share: float) -> np.ndarray:
    average = {"w": torch.from_numpy(ema.copy())}
    vit_torch.train_step.average(average, {"w": torch.from_numpy(values)}, share)
    return average["w"].numpy()


def biased(ema: np.ndarray, values: np.ndarray, share: float) -> np.ndarray:
    return ema * np.float32(1 - share) + values * np.float32(share)


@pytest.mark.parametrize("average", [flax, pytorch])
def test_the_average_of_constants_is_the_constant(average):
    """After 1,000 steps at 0.99999; as a sum of two rounded factors it isn't."""
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    share = recipes.average_share(0, AVERAGED)
    ema = other = values
    for _ in range(1000):
        ema, other = average(ema, values, share), biased(other, values, share)
    assert np.array_equal(ema, values)
    assert not np.array_equal(other, values)


@pytest.mark.parametrize("average", [flax, pytorch])
def test_the_average_is_the_formulas(average):
    rng = np.random.default_rng(0)
    ema, values = (rng.normal(size=200).astype(np.float32) for _ in range(2))
    found, exact = average(ema, values, 0.01), 0.99 * ema.astype(np.float64) + 0.01 * values
    assert compare({"w": found}, {"w": exact}).ok(FORMULA_FLOAT32.limit)


@pytest.mark.parametrize("warmup", ["none", "timm"])
def test_the_twins_have_the_same_shares(warmup):
    recipe = dataclasses.replace(AVERAGED, ema_decay=0.9, ema_warmup=warmup)
    shares = np.asarray([recipes.average_share(step, recipe) for step in range(50)])
    found = np.asarray([vit_jax.optim.average_share(step, recipe) for step in range(50)])
    assert compare({"share": found}, {"share": shares}).ok(FORMULA_FLOAT32.limit)
    assert (np.diff(shares) <= 0).all()
    assert (shares[0], shares[-1]) == (1.0 if warmup == "timm" else 1 - 0.9, 1 - 0.9)


def test_training_with_a_warm_up_is_the_same():
    recipe = dataclasses.replace(RECIPE, ema_warmup="timm")
    report = check_training("vit_digits", depth=1, steps=4, dtypes=["float64"], batch_size=4, recipe=recipe)
    assert report.passed, report.failures


def native_losses(seed: int) -> list[float]:
    options = dict(overrides=SIZES, batch_size=8, steps=3, optimizer=recipes.Optimizer(learning_rate=1e-3))
    recipe = recipes.get("digits", **options, drop_rate=0.3, seed=seed, generator="native")
    trainer = vit_torch.train_step.make_trainer(recipe, recipe.config(10))
    state = trainer.init(0)
    rng = np.random.default_rng(0)
    batch = {
        "image": torch.from_numpy(rng.integers(0, 255, (8, 8, 8, 1)).astype(np.uint8)),
        "label": torch.arange(8) % 10,
    }
    losses = []
    for _ in range(3):
        torch.rand(1)  # what else draws changes nothing
        state, metrics = trainer.step(state, batch, vit_torch.random.key(seed))
        losses.append(float(metrics["loss"]))
    return losses


def test_masks_of_the_native_generator_follow_from_seed_and_step(monkeypatch):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(vit_torch.random, "keep_mask", counted := Counted(vit_torch.random.keep_mask))
        losses = native_losses(1)
    assert counted.kinds == {vit_torch.random.Global}
    torch.random.set_rng_state(before)
    expected = torch.rand(3 + 1)[-1]
    torch.random.set_rng_state(before)
    assert native_losses(1) == losses
    assert torch.rand(1) == expected
    assert native_losses(2) != losses


class Counted:
    """A function that remembers the kinds of key it was called with."""

    def __init__(self, function):
        self.function, self.kinds = function, set()

    def __call__(self, key, *given):
        self.kinds.add(type(key))
        return self.function(key, *given)


def test_the_check_asks_for_the_generator_that_both_have():
    with pytest.raises(ValueError, match="generator: got 'native', expected 'threefry'"):
        check_training("vit_digits", steps=1, recipe=dataclasses.replace(RECIPE, generator="native"))
