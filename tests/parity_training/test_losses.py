"""Losses, preprocessing and evaluation of the twins agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_torch
from parity import data
from parity.configs import Preprocessing
from parity.tolerances import FORMULA, FORWARD
from vit_jax.evaluate import evaluate as evaluate_jax
from vit_jax.losses import cross_entropy as cross_entropy_jax
from vit_jax.normalize import normalize as normalize_jax
from vit_torch.evaluate import evaluate as evaluate_torch
from vit_torch.losses import cross_entropy as cross_entropy_torch
from vit_torch.normalize import normalize as normalize_torch


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_in_float64(smoothing, soft):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 5)) * 10
    labels = rng.dirichlet(np.ones(5), 7) if soft else rng.integers(0, 5, 7)
    with jax.enable_x64(True):
        ours = cross_entropy_jax(jnp.asarray(logits), jnp.asarray(labels), label_smoothing=smoothing)
        assert ours.dtype == jnp.float64
        ours = np.asarray(ours)
    twin = cross_entropy_torch(torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing)
    np.testing.assert_allclose(ours, twin.numpy(), rtol=FORMULA.limit)
    independent = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing, reduction="none"
    )
    np.testing.assert_allclose(ours, independent.numpy(), rtol=FORMULA.limit)


def test_cross_entropy_of_bfloat16_logits_is_float32():
    logits = np.linspace(-3, 3, 20).reshape(4, 5)
    labels = np.array([0, 1, 2, 4])
    ours = cross_entropy_jax(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(labels))
    twin = cross_entropy_torch(torch.tensor(logits, dtype=torch.bfloat16), torch.tensor(labels))
    assert (ours.dtype, twin.dtype) == (jnp.float32, torch.float32)
    np.testing.assert_allclose(np.asarray(ours), twin.numpy(), rtol=FORWARD["float32"].limit)


@pytest.mark.parametrize(("channels", "means"), [(3, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalize_is_that_of_the_data(dtype, channels, means):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, channels)).astype(np.uint8)
    preprocessing = Preprocessing() if means == 3 else Preprocessing().grey()
    expected = data.normalize(images, preprocessing, np.dtype(dtype))
    with jax.enable_x64(dtype == "float64"):
        ours = np.asarray(normalize_jax(jnp.asarray(images), preprocessing, jnp.dtype(dtype)))
    twin = normalize_torch(torch.from_numpy(images), preprocessing, getattr(torch, dtype)).numpy()
    assert ours.dtype == twin.dtype == np.dtype(dtype)
    limit = FORWARD[dtype].limit
    np.testing.assert_allclose(ours, expected, rtol=limit, atol=limit)
    np.testing.assert_allclose(twin.transpose(0, 2, 3, 1), expected, rtol=limit, atol=limit)


def test_evaluations_of_one_file_agree(tmp_path):
    model = vit_jax.create_model("vit_digits", depth=2, rngs=nnx.Rngs(0))
    vit_jax.save(model, tmp_path / "model")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 8, 8, 8, 1)).astype(np.uint8)
    label = rng.integers(0, 10, (3, 8)).astype(np.int32)
    mask = np.ones((3, 8), bool)
    mask[-1, 5:] = False
    batches = [{"image": i, "label": y, "mask": m} for i, y, m in zip(image, label, mask, strict=True)]
    ours = evaluate_jax(vit_jax.load(tmp_path / "model"), batches)
    trained = vit_torch.load(tmp_path / "model").train()
    twin = evaluate_torch(trained, batches)
    assert trained.training
    assert ours.count == twin.count == 21
    assert ours.labels.tolist() == twin.labels.tolist()
    assert ours.predictions.tolist() == twin.predictions.tolist()
    assert ours.accuracy == twin.accuracy
    np.testing.assert_allclose(ours.losses, twin.losses, rtol=FORWARD["float32"].limit)
    with pytest.raises(ValueError, match="expected at least one image"):
        evaluate_torch(trained, [])
