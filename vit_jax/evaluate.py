"""Accuracy and loss over a data set. Twin: `vit_torch/evaluate.py`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from parity.configs import Preprocessing

from .functional import params_of
from .losses import cross_entropy
from .models import Model
from .normalize import normalize
from .sharding import put_batch, replicated


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model made of a data set.

    Attributes:
        accuracy: Share of the images whose greatest logit is at their label.
        loss: Mean cross entropy.
        count: Number of images.
        labels: The label of each image, in the order of the data set.
        predictions: The class that the model gives each image.
        losses: The cross entropy of each image.
    """

    accuracy: float
    loss: float
    count: int
    labels: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """What a run reports of it."""
        return {"accuracy": self.accuracy, "loss": self.loss}


def evaluate(
    model: Model,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    preprocessing: Preprocessing | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Evaluation:
    """Runs a model over every image once.

    Args:
        model: A model, which is run in the precision of its parameters and in evaluation mode; it is unchanged.
        batches: What `parity.data.eval_batches` yields: uint8 images (b, h, w, c), labels, and a mask that is False
            in rows that pad the last batch.
        preprocessing: How images are normalised; as the model's config says by default.
        mesh: The mesh that batches are split over, if the parameters are.

    Raises:
        ValueError: There is no image.
    """
    model = nnx.clone(model)
    model.eval()
    dtype = next(iter(params_of(model).values())).dtype
    graphdef, state = nnx.split(model)
    images: Preprocessing = preprocessing or model.config.preprocessing
    rows = []
    for batch in batches:
        batch = dict(batch) if mesh is None else put_batch(batch, mesh)
        rows.append(_predict(graphdef, state, batch, images, dtype, mesh))
    if not rows:
        raise ValueError("batches: got none, expected at least one image")
    labels, predictions, losses, mask = (np.concatenate([np.asarray(row[i]) for row in rows]) for i in range(4))
    labels, predictions, losses = labels[mask], predictions[mask], losses[mask]
    return Evaluation(
        accuracy=float(np.mean(predictions == labels)),
        loss=float(np.mean(losses, dtype=np.float64)),
        count=len(labels),
        labels=labels,
        predictions=predictions,
        losses=losses,
    )


@functools.partial(jax.jit, static_argnames=("graphdef", "preprocessing", "dtype", "mesh"))
def _predict(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    batch: dict[str, jax.Array],
    preprocessing: Preprocessing,
    dtype: Any,
    mesh: jax.sharding.Mesh | None,
) -> tuple[jax.Array, ...]:
    """Label, prediction, loss and mask of each row, on every device."""
    logits = nnx.merge(graphdef, state)(normalize(batch["image"], preprocessing, dtype))
    losses = cross_entropy(logits, batch["label"])
    rows = batch["label"], logits.argmax(axis=-1), losses, batch["mask"]
    return rows if mesh is None else jax.lax.with_sharding_constraint(rows, replicated(mesh))
