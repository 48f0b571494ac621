"""The training step: execution choices, precisions, randomness, compile size."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity import recipes
from parity.configs import Execution
from parity.tolerances import BFLOAT16_LOSS, EXECUTION_LOSS, FORMULA
from vit_jax import random
from vit_jax.sharding import check_batch_size, make_mesh
from vit_jax.train import _numerics
from vit_jax.train_step import make_trainer

STEPS = 4


def batch(size: int = 8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, 8, 8, 1)).astype(np.uint8)
    return {"image": image, "label": rng.integers(0, 10, size).astype(np.int32)}


def losses_and_norms(recipe: recipes.Recipe, key: int = 1):
    mesh = make_mesh(devices=jax.devices()[:1])
    with _numerics(recipe), jax.set_mesh(mesh):
        trainer = make_trainer(recipe, recipe.config(), mesh)
        state = trainer.init(0)
        losses, norms = [], []
        for _ in range(STEPS):
            state, metrics = trainer.step(state, batch(), random.key(key))
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
    return np.array(losses), np.array(norms), state


@pytest.fixture(scope="module")
def recipe():
    return recipes.get(
        "digits",
        overrides={"depth": 2, "embed_dim": 16, "mlp_dim": 32},
        batch_size=8,
        steps=STEPS,
        optimizer=recipes.Optimizer(learning_rate=3e-3, warmup_steps=1),
        drop_rate=0.1,
        drop_path_rate=0.2,
        log_every=1,
    )


@pytest.fixture(scope="module")
def reference(recipe):
    return losses_and_norms(dataclasses.replace(recipe, execution=Execution(attention="reference")))


@pytest.mark.parametrize(
    "execution",
    [
        Execution(),
        pytest.param(Execution(scan=True), marks=pytest.mark.sweep),
        pytest.param(Execution(remat="block"), marks=pytest.mark.sweep),
        Execution(scan=True, remat="dots"),
    ],
    ids=["fused", "scan", "remat", "scan dots"],
)
def test_execution_changes_neither_loss_nor_gradient(recipe, reference, execution):
    losses, norms, _ = losses_and_norms(dataclasses.replace(recipe, execution=execution))
    np.testing.assert_allclose(losses, reference[0], rtol=EXECUTION_LOSS.limit)
    np.testing.assert_allclose(norms, reference[1], rtol=EXECUTION_LOSS.limit)


def test_another_key_changes_the_loss(recipe, reference):
    losses, _, _ = losses_and_norms(dataclasses.replace(recipe, execution=Execution(attention="reference")), key=2)
    assert np.abs(losses / reference[0] - 1).max() > 1000 * EXECUTION_LOSS.limit


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(recipe, reference):
    losses, _, state = losses_and_norms(dataclasses.replace(recipe, precision="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    difference = np.abs(losses / reference[0] - 1).max()
    assert EXECUTION_LOSS.limit < difference <= BFLOAT16_LOSS.limit


def test_float64_is_float64_throughout(recipe, reference):
    losses, norms, state = losses_and_norms(dataclasses.replace(recipe, precision="float64"))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float64"), jnp.dtype("int32")}
    # The first rate is 0, so two losses are of the same parameters; after that AdamW magnifies float32's rounding.
    np.testing.assert_allclose(losses[:2], reference[0][:2], rtol=EXECUTION_LOSS.limit)
    scanned = losses_and_norms(dataclasses.replace(recipe, precision="float64", execution=Execution(scan=True)))
    np.testing.assert_allclose(scanned[0], losses, rtol=FORMULA.limit)
    np.testing.assert_allclose(scanned[1], norms, rtol=FORMULA.limit)
    assert not jax.config.jax_enable_x64


def lines_of_code(recipe: recipes.Recipe, depth: int) -> int:
    """Of the lowered step."""
    recipe = dataclasses.replace(recipe, overrides={**recipe.overrides, "depth": depth})
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        trainer = make_trainer(recipe, recipe.config(), mesh)
        lowered = trainer.lower(trainer.abstract_state(), batch(), jax.eval_shape(lambda: random.key(0)))
    return lowered.as_text().count("\n")


def test_compiled_code_is_flat_in_depth_when_scanned(recipe):
    """Optimiser, layer-wise learning rates, average and all: no line is written for each block."""
    optimizer = dataclasses.replace(recipe.optimizer, layer_decay=0.8, clip_norm=1.0)
    recipe = dataclasses.replace(recipe, optimizer=optimizer, ema_decay=0.9)
    scanned = dataclasses.replace(recipe, execution=Execution(scan=True))
    # With few blocks another split of keys may have their number, and share a function.
    assert lines_of_code(scanned, 8) == lines_of_code(scanned, 16)
    assert lines_of_code(recipe, 9) > 2 * lines_of_code(recipe, 3)


def test_a_mesh_that_does_not_fit_is_an_error():
    devices = jax.devices()[:1] * 6
    with pytest.raises(ValueError, match="data=4, fsdp=1, tensor=1 for 6 devices, expected 4, their product"):
        make_mesh(data=4, devices=devices)
    with pytest.raises(ValueError, match="for 6 devices, expected a multiple of 4"):
        make_mesh(fsdp=4, devices=devices)
    for shape in ({"data": -1, "fsdp": -1}, {"tensor": 0}):
        with pytest.raises(ValueError, match="expected positive sizes, or -1 on one axis"):
            make_mesh(**shape, devices=devices)


def test_a_batch_that_the_mesh_does_not_divide_is_an_error():
    mesh = jax.sharding.AbstractMesh((2, 3, 4), ("data", "fsdp", "tensor"))
    check_batch_size(12, mesh)
    with pytest.raises(ValueError, match="batch_size: got 8, expected a multiple of 6"):
        check_batch_size(8, mesh)
