"""What every objective says of itself: all that trainer, sharding, checkpoints and checks know of it.

Twin: `vit_torch/objectives/objective.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from parity.configs import Config
from parity.recipes import Recipe

from .. import random
from ..evaluate import Evaluation
from ..models import Model, create_model

Arrays = Mapping[str, jax.Array]
# By the objective's own words, and then by canonical name where it is a model's.
Carried = Mapping[str, Arrays]


class Loss(NamedTuple):
    """What an objective makes of a batch.

    Attributes:
        value: The mean loss, a scalar.
        metrics: Means over the batch, scalars by name.
        seen: What `after_step` needs of the batch, means over it by name.
    """

    value: jax.Array
    metrics: dict[str, jax.Array]
    seen: dict[str, jax.Array]


class Objective:
    """One way to learn: its models, what it makes of a batch, what follows a step, and what is left at the end.

    Subclasses say how; what they leave out is as in a classification.

    Args:
        recipe: The recipe of the run.
        config: The config of the model, with the classes of the data.
        frozen: The models that help and never change, by name; in evaluation mode.
    """

    def __init__(self, recipe: Recipe, config: Config, frozen: Mapping[str, Model]):
        self.recipe = recipe
        self.config = config
        self.frozen = dict(frozen)

    def create(self, *, rngs: nnx.Rngs) -> nnx.Module:
        """What is trained, with new parameters: one module, in which there may be several models."""
        return create_model(self.config, rngs=rngs, execution=self.recipe.execution)

    def batch(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each array of a whole batch, by name: images, labels, and what mixing adds."""
        rows, config = self.recipe.batch_size, self.config
        held = {"image": ((rows, *config.image_size, config.in_chans), "uint8"), "label": ((rows,), "int32")}
        if self.recipe.data.augmentation.mixes:
            held |= {"lam": ((rows,), "float32"), "box": ((rows, 4), "int32")}
        return held

    def inputs(self, batch: Arrays) -> dict[str, jax.Array]:
        """What `loss` takes of a batch; every array's first axis is that of the images.

        Args:
            batch: A batch of `parity.data.train_batches`: uint8 images (b, h, w, c), labels (b,), and what
                mixing adds.
        """
        raise NotImplementedError

    def loss(self, model: Any, frozen: Mapping[str, Any], carried: Carried, inputs: Arrays, key: random.Key) -> Loss:
        """The loss of a batch, or of a part of it.

        Args:
            model: What is trained, in training mode and in the precision of the computation.
            frozen: The models that help, in that precision.
            carried: What `after_step` returned.
            inputs: What `inputs` returned.
            key: The key of everything that is drawn in this step.
        """
        raise NotImplementedError

    def carried(self, params: Arrays) -> dict[str, dict[str, jax.Array]]:
        """What a run carries from step to step beside parameters, statistics and optimiser, at its start.

        Such as a teacher that is an average of the student, or a centre. It is kept in checkpoints and never optimised.

        Args:
            params: The first parameters by canonical name, stacked where blocks are scanned (`vit_jax/stacks.py`).
        """
        return {}

    def after_step(self, carried: Carried, params: Arrays, seen: Arrays, step: Any) -> dict[str, Any]:
        """What is carried on after a step.

        Args:
            carried: What was carried before the step.
            params: The new parameters, likewise.
            seen: What `loss` gave of the batch.
            step: Steps that were made before this one.
        """
        return dict(carried)

    def evaluate(
        self, model: Any, batches: Iterable[Mapping[str, np.ndarray]], *, mesh: jax.sharding.Mesh | None = None
    ) -> Evaluation:
        """What the trained module makes of the test split; its metrics are what a run reports.

        Args:
            model: What is trained, with the parameters of the run or their average.
            batches: The batches of `parity.data.eval_batches`.
            mesh: The mesh that batches are split over.
        """
        raise NotImplementedError

    def exported(self, model: Any) -> Any:
        """The model that a complete run leaves as its native checkpoint: a part of what is trained, or all of it."""
        return model
