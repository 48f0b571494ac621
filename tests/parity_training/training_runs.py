"""One small recipe with everything that is random, and its final states held against each other."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import numpy as np

from parity import recipes
from parity.bridge import TrainingState, read_training
from parity.compare import compare
from parity.configs.augmentation import Augmentation
from parity.data import open_source, train_batches
from parity.tolerances import TRAINING_LOSS, TRAINING_STATE

RECIPE = recipes.get(
    "digits",
    overrides={"depth": 2, "embed_dim": 32, "mlp_dim": 64, "num_heads": 8},
    data=recipes.Data(
        name="digits",
        augmentation=Augmentation(shift=1, rotate=10.0, mixup=0.8, cutmix=1.0),
        num_threads=0,
    ),
    precision="float64",
    initialization="timm",
    batch_size=16,
    steps=100,
    optimizer=recipes.Optimizer(learning_rate=3e-3, warmup_steps=10, weight_decay=0.05, layer_decay=0.9),
    label_smoothing=0.1,
    ema_decay=0.9,
    drop_rate=0.1,
    attn_drop_rate=0.1,
    drop_path_rate=0.2,
    eval_every=0,
    checkpoint_every=50,
    log_every=1,
)


def parallel(steps: int, mesh: recipes.MeshShape) -> recipes.Recipe:
    """The recipe on some devices, each with its part of every batch and of either half of it."""
    return dataclasses.replace(
        RECIPE,
        steps=steps,
        mesh=mesh,
        accumulate=2,
        checkpoint_every=steps // 2,
        optimizer=dataclasses.replace(RECIPE.optimizer, warmup_steps=min(2, steps // 10 + 1)),
    )


def batches(recipe: recipes.Recipe, steps: int) -> list[dict[str, np.ndarray]]:
    """The first batches of a recipe, whole."""
    config = recipe.config(10)
    iterator = train_batches(
        open_source(recipe.data.name, recipe.data.train_split),
        batch_size=recipe.batch_size,
        image_size=config.image_size,
        preprocessing=config.preprocessing,
        augmentation=recipe.data.augmentation,
        seed=recipe.seed,
        num_threads=0,
    )
    return [{name: np.array(value) for name, value in next(iterator).items()} for _ in range(steps)]


def assert_same_state(left: Path | TrainingState, right: Path | TrainingState) -> None:
    """Parameters, moments and average of two runs after their last step, within the float64 tolerance."""
    states = [state if isinstance(state, TrainingState) else read_training(state) for state in (left, right)]
    one, other = states
    assert one.step == other.step
    assert one.data == other.data
    assert one.moments.keys() == other.moments.keys()
    parts = {"params": (one.params, other.params), "ema": (one.ema, other.ema)}
    parts |= {kind: (one.moments[kind], other.moments[kind]) for kind in one.moments}
    for part, (first, second) in parts.items():
        comparison = compare(first, second)
        assert comparison.ok(TRAINING_STATE["float64"].limit), f"{part}: {comparison.worst}"


def assert_same_losses(left: list[float], right: list[float]) -> None:
    """Two loss curves within the float64 tolerance, neither of which stands still."""
    np.testing.assert_allclose(left, right, rtol=TRAINING_LOSS["float64"].limit)
    assert np.ptp(left) > 0.01


def free_address() -> str:
    """Where processes of this machine can meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"
