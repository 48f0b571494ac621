"""A run's statistics of BatchNorm, their average, and what an objective carries: resumed, moved and opened."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from run_states import batch

import vit_jax.random
import vit_jax.run_checkpoints
import vit_jax.sharding
import vit_jax.train_step
import vit_torch.random
import vit_torch.run_checkpoints
import vit_torch.train_step
from parity import checkpoints, recipes
from parity.bridge import convert_training, read_training
from parity.checkpoints.shapes import is_statistic
from parity.compare import not_identical

STEPS = 2
RECIPE = recipes.get(
    "digits",
    overrides={"depth": 1, "embed_dim": 16, "mlp_dim": 24, "num_heads": 2, "patch_size": 2, "stem": "conv"}
    | {"stem_convs": ((8, 3, 2),)},
    steps=4,
    batch_size=8,
    ema_decay=0.9,
    optimizer=recipes.Optimizer(learning_rate=1e-3, weight_decay=0.05),
)
CONFIG = RECIPE.config(10)


class _Carrying:
    """A mean teacher: what is carried are the parameters' running mean and a count."""

    @staticmethod
    def carried(params):
        zero = next(iter(params.values())).sum() * 0
        return {"teacher": {name: value * 1.0 for name, value in params.items()}, "count": {"of_steps": zero}}

    @staticmethod
    def after_step(carried, params, seen, step):
        teacher = {name: (value + params[name]) / 2 for name, value in carried["teacher"].items()}
        return {"teacher": teacher, "count": {"of_steps": carried["count"]["of_steps"] + 1}}


@pytest.fixture(autouse=True)
def _mean_teacher(monkeypatch):
    for side in (vit_jax, vit_torch):
        objective = side.train_step.Objective
        monkeypatch.setattr(objective, "carried", lambda self, params: _Carrying.carried(params))
        after = lambda self, *args: _Carrying.after_step(*args)  # noqa: E731
        monkeypatch.setattr(objective, "after_step", after)


@pytest.fixture(scope="module")
def flax():
    """The trainer in Flax, compiled once."""
    mesh = vit_jax.sharding.make_mesh(data=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patched:
        objective = vit_jax.train_step.Objective
        patched.setattr(objective, "carried", lambda self, params: _Carrying.carried(params))
        patched.setattr(objective, "after_step", lambda self, *args: _Carrying.after_step(*args))
        trainer = vit_jax.train_step.make_trainer(RECIPE, CONFIG, mesh)
        state, key = trainer.abstract_state(), vit_jax.random.key(1)
        lowered = trainer.lower(state, batch(0), key)
        step = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    return mesh, trainer, step, key


def in_flax(directory, flax, *, steps, first=None):
    mesh, trainer, step, key = flax
    kept = vit_jax.run_checkpoints.RunDirectory(directory, RECIPE, CONFIG, resume=True)
    with kept as run, jax.set_mesh(mesh):
        restored = run.restore(trainer.abstract_state())
        state = restored[0] if restored else trainer.init(0)
        for number in range(int(state.step), steps):
            state, _ = step(trainer.frozen, state, batch(number), key)
            run.save(number + 1, state, {"step": number + 1})


def in_torch(directory, *, steps):
    with vit_torch.run_checkpoints.RunDirectory(directory, RECIPE, CONFIG, resume=True) as run:
        trainer = vit_torch.train_step.make_trainer(RECIPE, CONFIG)
        state = trainer.init(0)
        restored = run.restore(state)
        state = restored[0] if restored else state
        for number in range(state.step, steps):
            images = {name: torch.from_numpy(value) for name, value in batch(number).items()}
            state, _ = trainer.step(state, images, vit_torch.random.key(1))
            run.save(number + 1, state, {"step": number + 1})


def arrays(state):
    parts = {"params": state.params, "ema": state.ema, **state.moments, **state.carried}
    return {f"{part}.{name}": np.asarray(value) for part, values in parts.items() for name, value in values.items()}


def test_resuming_is_going_on(tmp_path, flax):
    in_flax(tmp_path / "once", flax, steps=4)
    in_flax(tmp_path / "twice", flax, steps=2)
    in_flax(tmp_path / "twice", flax, steps=4)
    in_torch(tmp_path / "torch_once", steps=4)
    in_torch(tmp_path / "torch_twice", steps=2)
    in_torch(tmp_path / "torch_twice", steps=4)
    for one, other in (("once", "twice"), ("torch_once", "torch_twice")):
        left, right = (read_training(tmp_path / name) for name in (one, other))
        assert not_identical(arrays(left), arrays(right)) == ()
        assert left.carried["count"]["of_steps"] == 4


def test_moving_keeps_every_number(tmp_path, flax):
    in_flax(tmp_path / "flax", flax, steps=STEPS)
    convert_training(tmp_path / "flax", tmp_path / "torch", to="torch")
    convert_training(tmp_path / "torch", tmp_path / "back", to="flax")
    states = [arrays(read_training(tmp_path / name)) for name in ("flax", "torch", "back")]
    assert not_identical(states[0], states[1]) == ()
    assert not_identical(states[0], states[2]) == ()
    moved = [name for name in states[0] if is_statistic(name)]
    assert sorted(name.partition(".")[0] for name in moved) == ["ema", "ema", "params", "params"]
    assert all(states[0][name].any() for name in moved)  # statistics left their start
    in_torch(tmp_path / "torch", steps=3)  # and training goes on
    in_flax(tmp_path / "back", flax, steps=3)


def test_a_run_opens_as_a_checkpoint(tmp_path, flax):
    in_flax(tmp_path / "flax", flax, steps=STEPS)
    opened = checkpoints.open_checkpoint(tmp_path / "flax")
    state = read_training(tmp_path / "flax")
    assert not_identical(dict(opened.tensors), dict(state.params)) == ()
    model = vit_torch.load(tmp_path / "flax")
    assert not model.training
    name = next(name for name in state.params if is_statistic(name))
    np.testing.assert_array_equal(model.state_dict()[name].numpy(), state.params[name])


def test_what_is_carried_must_fit(tmp_path, flax):
    in_flax(tmp_path / "flax", flax, steps=STEPS)
    state = read_training(tmp_path / "flax")
    wrong = dataclasses.replace(state, carried={"teacher": dict(state.carried["teacher"])})
    with pytest.raises(checkpoints.CheckpointError, match=r"missing.*count\.of_steps"):
        vit_torch.run_checkpoints.write_training(wrong, tmp_path / "torch")
    with pytest.raises(checkpoints.CheckpointError, match=r"missing.*count\.of_steps"):
        vit_jax.run_checkpoints.write_training(wrong, tmp_path / "other")
