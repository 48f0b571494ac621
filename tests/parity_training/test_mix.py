"""Mixup and cutmix: what is drawn, and what both frameworks make of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity.configs.augmentation import Augmentation
from parity.data.mix_draws import Mix, draw
from parity.tolerances import FORMULA
from vit_jax import mix as flax
from vit_torch import mix as pytorch

SIZE = (6, 9)
BOTH = Augmentation(mixup=0.8, cutmix=1.0)


def drawn(augmentation: Augmentation, num: int = 400):
    rng = np.random.default_rng(0)
    return [draw(rng, SIZE, augmentation) for _ in range(num)]


def test_the_weight_of_a_box_is_what_it_leaves():
    for lam, (top, left, bottom, right) in drawn(Augmentation(cutmix=1.0)):
        assert 0 <= top <= bottom <= SIZE[0]
        assert 0 <= left <= right <= SIZE[1]
        assert lam == pytest.approx(1 - (bottom - top) * (right - left) / 54, rel=FORMULA.limit)


def test_weights_are_of_the_distributions():
    mixup = [lam for lam, box in drawn(Augmentation(mixup=0.4)) if box == (0, 0, 0, 0)]
    assert len(mixup) == 400
    assert abs(np.mean(mixup) - 0.5) < 0.05
    assert abs(np.var(mixup) - 1 / (4 * 1.8)) < 0.02  # of Beta(a, a): 1 / (4 (2 a + 1))
    boxes = [box for _, box in drawn(BOTH) if box[2] > box[0] and box[3] > box[1]]
    assert 150 < len(boxes) < 250


def test_a_step_is_mixed_the_same_in_any_number_of_processes():
    batch = {"label": np.arange(8)}
    whole = Mix(BOTH, 3, SIZE, 8)(5, batch)
    parts = [Mix(BOTH, 3, SIZE, 8, rows)(5, {"label": batch["label"][rows]}) for rows in ([0, 1, 2, 3], [4, 5, 6, 7])]
    for name in ("lam", "box"):
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts]))
        assert np.array_equal(whole[name][::2], whole[name][1::2])
    assert not np.array_equal(whole["lam"], Mix(BOTH, 3, SIZE, 8)(6, batch)["lam"])
    assert not np.array_equal(whole["lam"], Mix(BOTH, 4, SIZE, 8)(5, batch)["lam"])


def expected(images, labels, lam, box):
    """One row after another, in NumPy."""
    mixed, targets = np.empty_like(images), np.zeros((len(labels), 10))
    for row, (weight, (top, left, bottom, right)) in enumerate(zip(lam, box, strict=True)):
        partner = row + 1 if row % 2 == 0 else row - 1
        if bottom > top:
            mixed[row] = images[row]
            mixed[row, top:bottom, left:right] = images[partner, top:bottom, left:right]
        else:
            mixed[row] = weight * images[row] + (1 - weight) * images[partner]
        targets[row, labels[row]] += weight
        targets[row, labels[partner]] += 1 - weight
    return mixed, targets


def test_both_frameworks_mix_as_the_formula_says():
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(16, *SIZE, 3)), rng.integers(0, 10, 16)
    numbers = Mix(BOTH, 0, SIZE, 16)(0, {})
    lam, box = numbers["lam"], numbers["box"]
    assert {bool(row[2] > row[0]) for row in box} == {True, False}
    mixed, targets = expected(images, labels, lam.astype(np.float64), box)
    with jax.enable_x64(True):
        given = jnp.asarray(lam), jnp.asarray(box)
        ours = np.asarray(flax.mix_images(jnp.asarray(images), *given))
        soft = np.asarray(flax.mix_targets(jnp.asarray(labels), given[0], num_classes=10, dtype=jnp.float64))
    given = torch.tensor(lam), torch.tensor(box)
    twin = pytorch.mix_images(torch.tensor(images).permute(0, 3, 1, 2), *given).permute(0, 2, 3, 1).numpy()
    twin_soft = pytorch.mix_targets(torch.tensor(labels), given[0], num_classes=10, dtype=torch.float64).numpy()
    for found in (ours, twin):
        np.testing.assert_allclose(found, mixed, rtol=FORMULA.limit, atol=FORMULA.limit)
    for found in (soft, twin_soft):
        np.testing.assert_allclose(found, targets, rtol=FORMULA.limit, atol=FORMULA.limit)
