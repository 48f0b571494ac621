"""A training recipe: everything that decides what a run computes, and how it is carried out.

Standard-library types only; loads no framework.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .. import configs
from ..configs import Config, Execution
from ..configs.augmentation import Augmentation
from ..configs.image_folder import FolderOptions
from ..configs.registry import build, jsonable
from .objectives import Classification, Objective, objective_from_dict

Precision = Literal["float32", "bfloat16", "float64"]
OptimizerName = Literal["adamw", "sgd"]
Initialization = Literal["timm", "jax", "moco", "big_vision"]
Warmup = Literal["none", "timm"]
Generator = Literal["threefry", "native"]

_CHOICES = {
    "initialization": get_args(Initialization),
    "ema_warmup": get_args(Warmup),
    "generator": get_args(Generator),
    "precision": get_args(Precision),
}

# What a resumed run may change: the parameters don't depend on it, except for rounding.
CARRIED_OUT_BY = (
    "mesh",
    "execution",
    "eval_every",
    "checkpoint_every",
    "log_every",
    "data.num_threads",
    "data.num_workers",
)
# Config fields that a checkpoint's tensors can be adapted to.
ADAPTED = ("image_size", "patch_size", "global_pool")
# What says which model a run trains and where it starts; the rest of a recipe says how.
MODEL = ("model", "overrides", "image_size", "init_from", "init_options")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set and what is done to its training images.

    Attributes:
        name: A data set as `parity.data.open_source` takes it: `digits`, a TFDS name, or a folder.
        train_split: Split to train on.
        test_split: Split to evaluate on.
        folder: How the files of an image folder are read.
        augmentation: Random changes of training images.
        num_threads: Threads that prepare batches, in each worker; 0, the fastest for tiny images, is none.
        num_workers: Processes that prepare batches; 0 is the process of the training.
    """

    name: str
    train_split: str = "train"
    test_split: str = "test"
    folder: FolderOptions = field(default_factory=FolderOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    num_threads: int = 2
    num_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101), or SGD with momentum, and the schedule.

    Attributes:
        name: `adamw`, or `sgd`, whose decay is added to the gradient before the momentum, as PyTorch does it.
        learning_rate: The highest, at the end of the warm-up.
        min_learning_rate: Where the cosine ends.
        warmup_steps: Steps of the linear warm-up from 0.
        weight_decay: The decay, times the learning rate, of the tensors for which `decays` holds.
        layer_decay: Factor of the learning rate from each block to the one before it, as `learning_rate_scale` has it
            (Clark et al. 2020, arXiv:2003.10555; BEiT's fine-tuning, arXiv:2106.08254); 1 for none.
        clip_norm: Greatest norm of all gradients together; None doesn't clip.
        b1: AdamW's decay of the mean of gradients.
        b2: AdamW's decay of the mean of squared gradients.
        eps: What AdamW adds to the root of the mean of squares.
        momentum: SGD's share of the sum of gradients that stays from step to step.
    """

    name: OptimizerName = "adamw"
    learning_rate: float
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    clip_norm: float | None = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        _expect(self.name in ("adamw", "sgd"), "name", repr(self.name), "'adamw' or 'sgd'")
        _expect(self.learning_rate > 0, "learning_rate", self.learning_rate, "a value above 0")
        low = 0 <= self.min_learning_rate <= self.learning_rate
        _expect(low, "min_learning_rate", self.min_learning_rate, f"0 to learning_rate {self.learning_rate}")
        _expect(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        _expect(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _expect(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "None or a value above 0")
        _expect(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "a value in (0, 1]")
        for name in ("b1", "b2", "momentum"):
            _expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "a value in [0, 1)")
        _expect(self.eps > 0, "eps", self.eps, "a value above 0")


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each axis of the mesh; -1, on one axis at most, takes what the others leave.

    Attributes:
        data: Copies of the parameters, each with its part of the batch.
        fsdp: Parts of the parameters and of the optimiser's state, each with its part of the batch.
        tensor: Parts of heads and hidden units.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run.

    Attributes:
        model: A registered name. With `init_from`, empty for what the checkpoint says, or the model that a file is of
            which doesn't say it.
        overrides: Config fields to replace, such as `{"depth": 2}`. The number of classes is the data set's. With
            `init_from`, what `parity.checkpoints.adapt` can change: image_size, patch_size, global_pool.
        image_size: Height and width in pixels, or one number for both; the model's own by default.
        init_from: A checkpoint to fine-tune, as `parity.checkpoints.open_checkpoint` takes it: classes, image size and
            dropout are this recipe's. A run's directory goes on if all else of its recipe is the same and there
            are more steps; otherwise only its parameters are taken. Empty starts from values of the seed.
        init_options: What the checkpoint doesn't say: keywords of `open_checkpoint`, such as `{"num_heads": 4}`.
        data: What to train and to evaluate on.
        batch_size: The size of the global batch, over all devices.
        steps: Optimiser steps.
        optimizer: Optimiser and schedule.
        objective: What the run learns by.
        initialization: What the first parameters are drawn from, as a project does it: `big_vision`, `timm`, `jax` or
            `moco` (`parity/recipes/initial.py` has the table). The same values in both frameworks.
        label_smoothing: Share of each target that is spread over all classes.
        ema_decay: Decay of the averaged parameters after each step, such as 0.9999; None keeps no average.
        ema_warmup: Whether the average begins with larger shares of the new parameters: `timm`, as its `ModelEmaV3`
            with `use_warmup`, or `none`.
        generator: What draws the masks of dropout and drop path: `threefry`, the same masks in both frameworks, or
            `native`, PyTorch's own generator, seeded by the run's seed and the step; JAX's own is threefry.
        accumulate: Parts that a batch is computed in, one after another, with the mean of their gradients.
        drop_rate: Dropout.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block.
        precision: The precision of the computation. Parameters and optimiser are float32, or float64 with `float64`.
        mesh: How devices are laid out.
        execution: How the model is run.
        seed: The seed of the initial parameters, the order of images, augmentation and dropout.
        eval_every: Steps between evaluations on the test split; 0 evaluates at the end alone.
        checkpoint_every: Steps between checkpoints; 0 writes one at the end alone.
        log_every: Steps between lines of metrics.
    """

    model: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    image_size: int | tuple[int, int] | None = None
    init_from: str = ""
    init_options: Mapping[str, Any] = field(default_factory=dict)
    data: Data
    batch_size: int
    steps: int
    optimizer: Optimizer
    objective: Objective = field(default_factory=Classification)
    initialization: Initialization = "big_vision"
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    ema_warmup: Warmup = "none"
    generator: Generator = "threefry"
    accumulate: int = 1
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    precision: Precision = "float32"
    mesh: MeshShape = field(default_factory=MeshShape)
    execution: Execution = field(default_factory=Execution)
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 10

    def config(self, num_classes: int | None = None) -> Config:
        """The config of a model that starts from values of the seed; `num_classes` are the data set's.

        A model of a family without heads for classes has none.

        Raises:
            ValueError: Unknown model or field, fields that make no model, or a model that a checkpoint says.
        """
        if self.init_from:
            raise ValueError(f"init_from: the model is what {self.init_from} says, and the run's directory has it")
        config = configs.get(self.model).with_rates(**self.drop_rates())
        classes = {} if num_classes is None or not config.takes_classes else {"num_classes": num_classes}
        changes = classes | self.changes()
        if changes.get("in_chans") == 1:  # images are grey, and their mean follows from that of the colours
            changes = {"preprocessing": config.preprocessing.grey()} | changes
        return configs.replace(config, **changes)

    def drop_rates(self) -> dict[str, float]:
        """The config fields of dropout."""
        return {name: getattr(self, name) for name in ("drop_rate", "attn_drop_rate", "drop_path_rate")}

    def changes(self) -> dict[str, Any]:
        """The config fields to replace, the image size among them."""
        size = {} if self.image_size is None else {"image_size": self.image_size}
        return size | dict(self.overrides)

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        for name in ("batch_size", "steps", "log_every", "accumulate"):
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("eval_every", "checkpoint_every"):
            _expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _expect(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "a value in [0, 1)")
        ema = self.ema_decay
        _expect(ema is None or 0 <= ema < 1, "ema_decay", ema, "None or a value in [0, 1)")
        for name, choices in _CHOICES.items():
            _expect(getattr(self, name) in choices, name, repr(getattr(self, name)), "one of " + ", ".join(choices))
        parts = self.accumulate * (2 if self.data.augmentation.mixes else 1)
        _expect(
            self.batch_size % parts == 0, "batch_size", self.batch_size, f"a multiple of {parts}: accumulate, pairs"
        )
        _expect(0 <= self.seed < 2**32, "seed", self.seed, "0 to 2**32 - 1")
        warmup = self.optimizer.warmup_steps
        _expect(warmup <= self.steps, "warmup_steps", warmup, f"at most steps {self.steps}")
        self._check_model()

    def _check_model(self) -> None:
        if not self.init_from:
            _expect(bool(self.model), "model", "none", "a registered name, or init_from")
            _expect(not self.init_options, "init_options", dict(self.init_options), "none without init_from")
            self.config()
            return
        if self.model:
            configs.get(self.model)  # names an unknown one
        unknown = [name for name in self.overrides if name not in ADAPTED]
        got, expected = ", ".join(unknown), "the checkpoint says that; init_options has what it doesn't say"
        _expect(not unknown, "overrides", got, f"{', '.join(ADAPTED)} with init_from: {expected}")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values."""
    return jsonable(dataclasses.asdict(recipe))


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_dict`.

    Raises:
        ValueError: Unknown or missing field (with a close match), or a value that the recipe rejects; names it.
    """
    fields = dict(data)
    if isinstance(fields.get("data"), Mapping):
        fields["data"] = dict(fields["data"])
        for name, cls in (("augmentation", Augmentation), ("folder", FolderOptions)):
            _build_at(fields["data"], name, cls, f"data.{name}")
    for name, cls in (("data", Data), ("optimizer", Optimizer), ("mesh", MeshShape), ("execution", Execution)):
        _build_at(fields, name, cls, name)
    if "objective" in fields:
        fields["objective"] = objective_from_dict(fields["objective"])
    for name in ("overrides", "init_options"):
        if isinstance(fields.get(name), Mapping):
            values = fields[name].items()
            fields[name] = {key: tuple(value) if isinstance(value, list) else value for key, value in values}
    return build(Recipe, fields, "recipe")


def differences(old: Recipe, new: Recipe, *, apart_from: tuple[str, ...] = ()) -> list[str]:
    """What makes two recipes different runs: one line for each field; empty if one can resume the other.

    Args:
        old: The recipe of the run that is there.
        new: The recipe of the run that is wanted.
        apart_from: Fields that may differ beside those that only say how a run is carried out.
    """
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    return [
        f"{name}: {before.get(name)!r} there, {after.get(name)!r} here"
        for name in sorted(before | after)
        if not name.startswith(CARRIED_OUT_BY + apart_from) and before.get(name) != after.get(name)
    ]


def starting_from(recipe: Recipe, path: str, **options: Any) -> Recipe:
    """The same training of a checkpoint's model.

    Args:
        recipe: A recipe, whose model and overrides are left out.
        path: The path of the checkpoint, as in `Recipe.init_from`.
        options: What `Recipe.init_options` may hold; `model` names the model, for a file that doesn't say it.
    """
    model = options.pop("model", None) or ""
    return dataclasses.replace(recipe, model=model, overrides={}, init_from=path, init_options=options)


def _build_at(fields: dict[str, Any], name: str, cls: type, where: str) -> None:
    if name in fields:
        fields[name] = build(cls, fields[name], where)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _expect(condition: bool, name: str, got: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: got {got}, expected {expected}")
