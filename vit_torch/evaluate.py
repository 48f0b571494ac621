"""Accuracy and loss over a data set. Twin: `vit_jax/evaluate.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parity.configs import Preprocessing

from .losses import cross_entropy
from .models import Model
from .normalize import normalize


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
    parallel: bool = False,
) -> Evaluation:
    """Runs a model over every image once.

    Args:
        model: A model, which is run in the precision of its parameters and in evaluation mode; its mode is put back.
        batches: What `parity.data.eval_batches` yields: uint8 images (b, h, w, c), labels, and a mask that is False
            in rows that pad the last batch.
        preprocessing: How images are normalised; as the model's config says by default.
        parallel: Whether each process of `torch.distributed` has its rows of each batch; all return the same.

    Raises:
        ValueError: There is no image.
    """
    images: Preprocessing = preprocessing or model.config.preprocessing
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    rows = []
    try:
        for batch in batches:
            tensors = {name: torch.from_numpy(np.array(value)).to(device) for name, value in batch.items()}
            rows.append(_predict(model, tensors, images))
    finally:
        model.train(training)
    if not rows:
        raise ValueError("batches: got none, expected at least one image")
    rows = [tuple(column.cpu().numpy() for column in row) for row in rows]
    if parallel:
        gathered: list = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, rows)
        rows = [row for batch in zip(*gathered, strict=True) for row in batch]
    labels, predictions, losses, mask = (np.concatenate([row[i] for row in rows]) for i in range(4))
    labels, predictions, losses = labels[mask], predictions[mask], losses[mask]
    return Evaluation(
        accuracy=float(np.mean(predictions == labels)),
        loss=float(np.mean(losses, dtype=np.float64)),
        count=len(labels),
        labels=labels,
        predictions=predictions,
        losses=losses,
    )


@torch.inference_mode()
def _predict(model: Model, batch: dict[str, Tensor], preprocessing: Preprocessing) -> tuple[Tensor, ...]:
    """Label, prediction, loss and mask of each row."""
    dtype = next(model.parameters()).dtype
    logits = model(normalize(batch["image"], preprocessing, dtype))
    losses = cross_entropy(logits, batch["label"])
    return batch["label"], logits.argmax(dim=-1), losses, batch["mask"]
