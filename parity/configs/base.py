"""What the house asks of every family's config.

Checks, checkpoints, recipes, training and commands know a config by this class alone: no code outside of a family's own
files asks which family it has before it.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Input:
    """One argument that a model is called with.

    Attributes:
        name: The name of the argument.
        shape: The shape of one example, without the batch: (h, w, c) of an image, (t,) of a text.
        vocabulary: The number of token ids, from 0, of an input of integers; None for an input of floats, which can be
            differentiated.
    """

    name: str
    shape: tuple[int, ...]
    vocabulary: int | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is a map: (b, h, w, c) in Flax and (b, c, h, w) in PyTorch."""
        return self.vocabulary is None and len(self.shape) == 3


class ModelConfig(ABC):
    """The base of every family's config, which is a frozen dataclass with a default for each field.

    A family declares those of the fields below that it has, and may leave the rest as they stand here.

    Attributes:
        registered: The named models of the family: the fields of each that aren't the defaults, and `normalize`, a name
            of `parity.configs.models.NORMALIZATIONS`.
        image_size: Height and width of the images in pixels.
        in_chans: The number of channels of the images.
        num_classes: The width of the head; 0 for a model without one.
        depth: The number of units that layer decay counts, and that `shortened` takes the first of: blocks, mostly.
        drop_rate: The rate of dropout.
        attn_drop_rate: The rate of dropout of attention weights.
        drop_path_rate: The rate of stochastic depth in the last unit.
        preprocessing: How images become inputs.
        objective: The objective of `parity.recipes` that trains its models, where nobody names one.
        numerics: Names of the fields that a project chooses for itself, while all others are in its weights.
        heads: Names of the parts that depend on `num_classes`, and that new classes make anew.
        embeddings: Names of the parts that are called as the model is, and whose results `forward_intermediates`
            leaves out.
        features: Names of what `forward_features` returns.
        outputs: Names of what `forward_head` returns, given those features.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of the families, which are dataclasses
    registered: ClassVar[Mapping[str, Mapping[str, Any]]]
    image_size: tuple[int, int]
    in_chans: int = 3
    num_classes: int = 0
    depth: int
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing
    objective: ClassVar[str] = "classification"
    numerics: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]] = ("head",)
    embeddings: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ("forward_features",)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the model is called with, in the order of its arguments."""
        return (Input("images", (*self.image_size, self.in_chans)),)

    @property
    def takes_classes(self) -> bool:
        """Whether the family has heads for the classes of a data set."""
        return "num_classes" in self._own()

    @property
    @abstractmethod
    def intermediates(self) -> tuple[str, ...]:
        """Names of what `forward_intermediates` returns, in its order."""

    @property
    def places(self) -> tuple[str, ...]:
        """Names of what the forward level compares, in the order of the forward pass."""
        return (*self.embeddings, *self.intermediates, *self.features, *self.outputs)

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Where a tensor lies: 0 before the first unit, i + 1 in unit i, `depth` + 1 after the last.

        Args:
            name: Canonical, such as `blocks.0.attn.qkv.weight`.
        """

    def constant(self, name: str) -> float:
        """The start value of a tensor that isn't drawn: 1 of a norm's factor, LayerScale's own, and else 0.

        Args:
            name: Canonical, such as `blocks.0.norm1.weight`.
        """
        last = name.rpartition(".")[2]
        if last == "gamma":
            return float(getattr(self, "layer_scale_init", None) or 0)
        return 1.0 if last in ("weight", "running_var") else 0.0

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """The start values of a tensor that has a law of its own; None for what `parity/recipes/initial.py` says.

        Args:
            name: Canonical.
            shape: Its shape.
            rng: Where to draw from.
        """
        return None

    @abstractmethod
    def shortened(self, depth: int) -> Self:
        """A config of the first `depth` units, or of as few as the family can have; itself if it has no more.

        Its tensors are among those of this config and mean the same; of one that has an entry for each unit, they are
        the first entries.
        """

    @abstractmethod
    def reduced(self, depth: int) -> Self:
        """A config of at most about `depth` units and of small images that aren't square, at the real widths.

        Fields that play no part in a forward pass from given parameters get one value, so that models that differ in
        nothing else become equal.
        """

    @abstractmethod
    def narrowed(self) -> Self:
        """A config with the same options at one small width: equal for models that differ in sizes alone."""

    @abstractmethod
    def activations(self, *, backward: bool) -> int:
        """An estimate of the numbers that one example's activations have at the peak.

        Args:
            backward: Whether all of them are kept for a backward pass, or those of one unit at a time.
        """

    @property
    @abstractmethod
    def summary(self) -> dict[str, str]:
        """The row of `vit-parity models`, by the name of the column, without the number of parameters."""

    @property
    def facts(self) -> dict[str, str]:
        """What follows from the fields and a reader would look for in `vit-parity info`, by name."""
        return {}

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """A config of any family, which is of this one.

        Raises:
            ValueError: It is of another.
        """
        if not isinstance(config, cls):
            raise ValueError(f"config: got a {type(config).__name__}, expected a {cls.__name__}")
        return config

    def adapted(self, *, num_classes: int | None = None, **changes: Any) -> Self:
        """The config that a checkpoint of this one can be taken to.

        Args:
            num_classes: Another number of classes; None for the same. The heads are made anew.
            changes: Other fields, such as `image_size`; None for the same.

        Raises:
            ValueError: A field that the family lacks, or a value to which the tensors can't be taken.
        """
        asked = {name: value for name, value in {**changes, "num_classes": num_classes}.items() if value is not None}
        for name, value in asked.items():
            if name not in self._own():
                raise ValueError(f"{name}: got {value!r}, but {type(self).__name__} has no such field")
        return dataclasses.replace(self, **asked)

    def with_rates(self, **rates: float) -> Self:
        """The config with other rates of what drops in training.

        Args:
            rates: The values of `drop_rate`, `attn_drop_rate` and `drop_path_rate`.

        Raises:
            ValueError: A rate above 0 of something that the family doesn't have.
        """
        own = self.own_rates(rates)
        for name, rate in rates.items():
            if rate and name not in own:
                raise ValueError(f"{name}: got {rate}, expected 0: {type(self).__name__} has no such dropout")
        return dataclasses.replace(self, **own)

    def own_rates(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Those of some rates, by name, that are fields of the family."""
        return {name: rate for name, rate in rates.items() if name in self._own()}

    def _own(self) -> set[str]:
        """Names of the fields that the family has."""
        return {field.name for field in dataclasses.fields(self)}
