"""Training parity: the same recipe, once in either framework, with nothing copied between them but the batches.

Compared are the loss and the gradient's norm at each step, and, after the last one, the parameters, what the optimiser
remembers, the averaged parameters, the statistics of BatchNorm and what the objective carries from step to step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

import vit_torch.train_step

from ..checkpoints import Checkpoint
from ..compare import layer_scales
from ..configs import Config
from ..data import Augmentation, Source
from ..recipes import Data, Optimizer, Recipe
from ..recipes.objectives import OBJECTIVES
from ..runs.frozen import check_frozen, open_frozen
from ..tolerances import TRAINING_LOSS, TRAINING_STATE
from .report import CheckReport, Part, PrecisionReport
from .runs import Batch, FlaxRun, TorchRun, batches_of, source_of
from .target import ImageSize, Target, Work, check_dtypes, open_target
from .twins import DTYPES, Tensors, exact_jax

# Changes PyTorch's first state, to see whether the check notices.
TrainingPlant = Callable[[vit_torch.train_step.TrainState], None]
# Called after each step with precision, number, and both losses.
OnStep = Callable[[str, int, float, float], None]

# Everything that a training run may have; the model, steps, batch size, seed and precision are replaced.
RECIPE = Recipe(
    model="vit_digits",
    data=Data(name="digits", augmentation=Augmentation(shift=1, rotate=10.0, mixup=0.8, cutmix=1.0), num_threads=0),
    batch_size=16,
    steps=100,
    optimizer=Optimizer(learning_rate=1e-3, warmup_steps=10, weight_decay=0.05, clip_norm=1.0),
    label_smoothing=0.1,
    ema_decay=0.99,
    drop_path_rate=0.2,
)
_CURVES = ("loss", "grad_norm", "learning_rate")


def check_training(
    model: str | Path | Config | Checkpoint,
    *,
    steps: int = 100,
    dtypes: Sequence[str] = tuple(DTYPES),
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 16,
    seed: int = 0,
    recipe: Recipe | None = None,
    plant: TrainingPlant | None = None,
    on_step: OnStep | None = None,
) -> CheckReport:
    """Trains the twins side by side and compares losses, gradient norms, parameters, moments and average.

    Each starts as its own training does: from a checkpoint, or from what it draws for the seed. With `bfloat16` the
    computation is in it, and parameters and optimiser are float32, as in training.

    Args:
        model: A registered name, a config, or the path of a checkpoint in any known format. Gets a head for the data's
            classes.
        steps: The steps of the optimiser. The tolerances are those of 100.
        dtypes: Precisions, of `float64`, `float32` and `bfloat16`.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Images of each step; an even number where the recipe mixes them.
        seed: The seed of parameters, batches and masks.
        recipe: Data, augmentation, optimiser, rates and average; its other fields are replaced by these arguments. By
            default `recipe_of` the model's config.
        plant: Changes PyTorch's first state before it trains, to see whether the check notices.
        on_step: Called after each step.

    Raises:
        ValueError: An unknown name or precision, a model that wouldn't fit in memory or doesn't fit the data.
        CheckpointError: Not a readable checkpoint.
    """
    check_dtypes(dtypes)
    if recipe is not None:
        _check_generator(recipe)
    source, target, recipe, frozen = open_training(
        model,
        recipe,
        steps=steps,
        depth=depth,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        work="training",
    )
    precisions = []
    for dtype in dtypes:
        run = dataclasses.replace(recipe, precision=dtype)
        with closing(batches_of(source, run, target.config)) as batches:
            precisions.append(_train(run, target.config, target.tensors or None, frozen, batches, plant, on_step))
    start = "from the checkpoint" if target.tensors else f"from the seed ({recipe.initialization})"
    return CheckReport.of("training", target, seed, precisions, target.faults, steps=steps, start=start)


def open_training(
    model: str | Path | Config | Checkpoint,
    recipe: Recipe | None,
    *,
    steps: int,
    depth: int | None,
    image_size: ImageSize,
    batch_size: int,
    seed: int,
    work: Work,
) -> tuple[Source, Target, Recipe, dict[str, Checkpoint]]:
    """What a check of training is about: images, model, the recipe of the steps, and the models that help.

    Arguments are those of `check_training`, and `open_target`'s `work`.
    """
    source = source_of(recipe or RECIPE)
    target = open_target(
        model,
        depth=depth,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        num_classes=source.num_classes,
        work=work,
    )
    recipe = of_steps(recipe or recipe_of(target.config), steps, batch_size, seed)
    target = dataclasses.replace(target, config=target.config.with_rates(**recipe.drop_rates()))
    frozen = open_frozen(recipe)
    check_frozen(frozen, target.config, source)
    return source, target, recipe, frozen


def _check_generator(recipe: Recipe) -> None:
    if recipe.generator != "threefry":
        expected = "'threefry': PyTorch's own generator draws other masks than JAX"
        raise ValueError(f"generator: got {recipe.generator!r}, expected {expected}")


def of_steps(recipe: Recipe, steps: int, batch_size: int, seed: int) -> Recipe:
    """A recipe for some steps, over all of which the warm-up may last."""
    optimizer = dataclasses.replace(recipe.optimizer, warmup_steps=min(recipe.optimizer.warmup_steps, steps))
    return dataclasses.replace(recipe, steps=steps, batch_size=batch_size, seed=seed, optimizer=optimizer)


def recipe_of(config: Config) -> Recipe:
    """`RECIPE` for a model of any family: with its objective, and what the family has of the rates.

    Images are mixed where the objective is about their labels alone.
    """
    own = config.own_rates(RECIPE.drop_rates())
    rates = {name: own.get(name, 0.0) for name in RECIPE.drop_rates()}
    data = RECIPE.data
    if config.objective != RECIPE.objective.name:
        augmentation = dataclasses.replace(data.augmentation, mixup=0.0, cutmix=0.0)
        data = dataclasses.replace(data, augmentation=augmentation)
    return dataclasses.replace(RECIPE, objective=OBJECTIVES[config.objective](), data=data, **rates)


def _train(
    recipe: Recipe,
    config: Config,
    tensors: Tensors | None,
    frozen: Mapping[str, Checkpoint],
    batches: Iterator[Batch],
    plant: TrainingPlant | None,
    on_step: OnStep | None,
) -> PrecisionReport:
    """Both frameworks in one precision, step by step."""
    dtype = recipe.precision
    values: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in _CURVES}
    with exact_jax(DTYPES[dtype]):
        flax, twin = FlaxRun(recipe, config, tensors, frozen), TorchRun(recipe, config, tensors, frozen)
        if plant is not None:
            plant(twin.state)
        for step in range(1, recipe.steps + 1):
            batch = next(batches)
            metrics = flax.step(batch), twin.step(batch)
            for name, curves in values.items():
                for curve, found in zip(curves, metrics, strict=True):
                    curve.append(float(found[name]))
            if on_step is not None:
                on_step(dtype, step, *(float(found["loss"]) for found in metrics))
        left, right = flax.trees(), twin.trees()
    parts = [
        Part.of(name, _by_step(values[name][0]), _by_step(values[name][1]), TRAINING_LOSS[dtype].limit)
        for name in _CURVES[:2]
    ]
    for name in left:
        parts.append(Part.of(name, left[name], right[name], TRAINING_STATE[dtype].limit, layer_scales(right[name])))
    curves = {name: (tuple(one), tuple(other)) for name, (one, other) in values.items()}
    return PrecisionReport(dtype=dtype, parts=tuple(parts), curves=curves)


def _by_step(curve: Sequence[float]) -> dict[str, np.ndarray]:
    return {f"step {step}": np.asarray(value) for step, value in enumerate(curve, start=1)}
