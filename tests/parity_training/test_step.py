"""The step in PyTorch against what it should be; its twin is held against it elsewhere."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from training_runs import RECIPE, batches

from parity.tolerances import FORMULA, TRAINING_STATE
from vit_torch import random
from vit_torch.train_step import make_trainer

LIMIT = TRAINING_STATE["float64"].limit
PLAIN = dataclasses.replace(
    RECIPE,
    steps=3,
    drop_rate=0.0,
    attn_drop_rate=0.0,
    drop_path_rate=0.0,
    optimizer=dataclasses.replace(RECIPE.optimizer, warmup_steps=1, clip_norm=None),
)


def run(recipe, on_step=None):
    trainer = make_trainer(recipe, recipe.config(10))
    state = trainer.init(0)
    losses = []
    for batch in batches(recipe, recipe.steps):
        tensors = {name: torch.tensor(value) for name, value in batch.items()}
        state, metrics = trainer.step(state, tensors, random.key(1))
        losses.append([float(metrics[name]) for name in ("loss", "accuracy", "grad_norm")])
        if on_step is not None:
            on_step(state)
    return np.array(losses), {name: value.detach().numpy() for name, value in state.params.items()}


@pytest.fixture(scope="module")
def plain():
    return run(PLAIN)


@pytest.mark.parametrize("parts", [2, 8])
def test_gradients_in_parts_are_those_of_the_batch(plain, parts):
    losses, params = run(dataclasses.replace(PLAIN, accumulate=parts))
    np.testing.assert_allclose(losses, plain[0], rtol=FORMULA.limit)
    for name, value in params.items():
        # What AdamW makes of a gradient that is zero but for rounding is left out.
        if not name.endswith("qkv.bias"):
            np.testing.assert_allclose(value, plain[1][name], rtol=LIMIT, atol=LIMIT)


def test_the_average_follows_its_formula():
    seen = []

    def on_step(state):
        seen.append([copy.deepcopy({n: v.detach() for n, v in tree.items()}) for tree in (state.params, state.ema)])

    run(PLAIN, on_step)
    trainer = make_trainer(PLAIN, PLAIN.config(10))
    average = {name: value.detach() for name, value in trainer.init(0).params.items()}
    for params, ema in seen:
        average = {name: 0.9 * average[name] + 0.1 * params[name] for name in average}
        for name, value in average.items():
            np.testing.assert_allclose(ema[name], value, rtol=FORMULA.limit, atol=FORMULA.limit)
    assert not torch.equal(seen[-1][0]["head.weight"], seen[-1][1]["head.weight"])


def test_another_key_or_step_draws_other_masks():
    dropped = dataclasses.replace(PLAIN, drop_path_rate=0.5, steps=2, initialization="timm")
    trainer = make_trainer(dropped, dropped.config(10))
    batch = {name: torch.tensor(value) for name, value in batches(dropped, 1)[0].items()}
    losses = []
    for seed, step in ((1, 0), (1, 0), (2, 0), (1, 1)):
        state = trainer.init(0)
        state.step = step
        losses.append(float(trainer.step(state, batch, random.key(seed))[1]["loss"]))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
