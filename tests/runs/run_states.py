"""States of runs: with random numbers in every tensor, and after a few steps of either framework."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity import recipes
from parity.checkpoints import parameter_shapes
from parity.compare import not_identical
from parity.recipes import Optimizer, Recipe
from parity.runs import TrainingState
from parity.runs.training_state import MOMENTS

ADAMW = Optimizer(learning_rate=3e-3, warmup_steps=1, weight_decay=0.05)


def recipe_of(optimizer: Optimizer = ADAMW, **fields) -> Recipe:
    """A run of five steps of a model whose shapes are all different."""
    overrides = {"patch_size": (4, 2), "depth": 1, "embed_dim": 12, "num_heads": 3, "mlp_dim": 20}
    return recipes.get(
        "digits", overrides=overrides, batch_size=8, steps=5, checkpoint_every=1, optimizer=optimizer, **fields
    )


RECIPES = {
    "adamw": recipe_of(),
    "adamw_everything": recipe_of(
        Optimizer(learning_rate=3e-3, weight_decay=0.05, layer_decay=0.75), ema_decay=0.9, precision="float64"
    ),
    "sgd": recipe_of(Optimizer(name="sgd", learning_rate=0.1, weight_decay=0.05, momentum=0.9)),
    "sgd_everything": recipe_of(
        Optimizer(name="sgd", learning_rate=0.1, momentum=0.9, layer_decay=0.75), ema_decay=0.9
    ),
    "sgd_without_momentum": recipe_of(Optimizer(name="sgd", learning_rate=0.1, momentum=0.0)),
}


def random_state(recipe: Recipe, *, step: int = 3) -> TrainingState:
    """A state in which no two numbers are the same."""
    rng = np.random.default_rng(step)
    dtype = np.float64 if recipe.precision == "float64" else np.float32
    shapes = parameter_shapes(recipe.config(10))

    def arrays() -> dict[str, np.ndarray]:
        return {name: rng.uniform(size=shape).astype(dtype) for name, shape in shapes.items()}

    return TrainingState(
        recipe=recipe,
        step=step,
        params=arrays(),
        moments={kind: arrays() for kind in MOMENTS[recipe.optimizer.name]},
        ema=None if recipe.ema_decay is None else arrays(),
        data={"step": step, "seed": 7},
        metrics=tuple({"step": number, "train/loss": 1 / number} for number in range(1, step + 1)),
    )


def differing(left: TrainingState, right: TrainingState) -> list[str]:
    """What isn't the same in two states, tensors bit by bit."""
    found = [name for name in ("recipe", "step", "data", "metrics") if getattr(left, name) != getattr(right, name)]
    return found + list(not_identical(tensors(left), tensors(right)))


def tensors(state: TrainingState) -> dict[str, np.ndarray]:
    """Every array of a state."""
    parts = {"params": state.params, **state.moments, "ema": state.ema or {}}
    return {f"{part}.{name}": value for part, arrays in parts.items() for name, value in arrays.items()}


def batch(step: int) -> dict[str, np.ndarray]:
    """Images of noise."""
    rng = np.random.default_rng(step)
    image = rng.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    return {"image": image, "label": rng.integers(0, 10, 8).astype(np.int32)}


def train_in_flax(directory: Path, recipe: Recipe, *, steps: int) -> None:
    """Goes on with a run to a step, as `vit_jax.train` does it."""
    import jax

    from vit_jax import random
    from vit_jax.run_checkpoints import RunDirectory
    from vit_jax.sharding import make_mesh
    from vit_jax.train_step import make_trainer

    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    run_directory = RunDirectory(directory, recipe, recipe.config(10), resume=True)
    with run_directory as run, jax.set_mesh(mesh), jax.enable_x64(is_double(recipe)):
        trainer = make_trainer(recipe, recipe.config(10), mesh)
        state, position = run.restore(trainer.abstract_state())
        key = random.key(1)
        # So few steps aren't worth compiling well.
        lowered = trainer.lower(state, batch(0), key)
        train_step = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
        for step in range(int(state.step), steps):
            state, _ = train_step(trainer.frozen, state, batch(step), key)
            run.save(step + 1, state, {**position, "step": step + 1})


def train_in_torch(directory: Path, recipe: Recipe, *, steps: int) -> None:
    """Starts a run or goes on with one to a step, as `vit_torch.train` does it."""
    import torch

    from vit_torch import random
    from vit_torch.run_checkpoints import RunDirectory
    from vit_torch.train_step import make_trainer

    with RunDirectory(directory, recipe, recipe.config(10), resume=True) as run:
        trainer = make_trainer(recipe, recipe.config(10))
        state = trainer.init(0)
        state, position = run.restore(state) or (state, {"step": 0})
        for step in range(state.step, steps):
            images = {name: torch.from_numpy(value) for name, value in batch(step).items()}
            state, _ = trainer.step(state, images, random.key(1))
            run.save(step + 1, state, {**position, "step": step + 1})


def is_double(recipe: Recipe) -> bool:
    """Whether parameters and optimiser are float64."""
    return recipe.precision == "float64"
