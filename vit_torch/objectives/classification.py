"""Cross entropy with the labels. Twin: `vit_jax/objectives/classification.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import random
from ..evaluate import Evaluation, evaluate
from ..losses import cross_entropy
from ..mix import mix_images, mix_targets
from ..normalize import normalize
from .objective import Arrays, Carried, Loss, Objective


class Classification(Objective):
    """Softmax cross entropy, with label smoothing, mixup and cutmix where the recipe asks for them."""

    def inputs(self, batch: Arrays) -> dict[str, Tensor]:
        """Normalised images (b, c, h, w), targets and labels (b,); targets are labels unless they are mixed."""
        dtype = getattr(torch, self.recipe.precision)
        images, labels = normalize(batch["image"], self.config.preprocessing, dtype), batch["label"]
        if not self.recipe.data.augmentation.mixes:
            return {"images": images, "targets": labels, "labels": labels}
        targets = mix_targets(labels, batch["lam"], num_classes=self.config.num_classes, dtype=images.dtype)
        return {"images": mix_images(images, batch["lam"], batch["box"]), "targets": targets, "labels": labels}

    def loss(self, model: Any, frozen: Mapping[str, Any], carried: Carried, inputs: Arrays, key: random.Key) -> Loss:
        """Mean cross entropy, and the share of the images whose greatest logit is at their label."""
        logits = model(inputs["images"], key=key)
        loss = cross_entropy(logits, inputs["targets"], label_smoothing=self.recipe.label_smoothing)
        return Loss(loss.mean(), {"accuracy": (logits.argmax(dim=-1) == inputs["labels"]).double().mean()}, {})

    def evaluate(
        self, model: Any, batches: Iterable[Mapping[str, np.ndarray]], *, parallel: bool = False
    ) -> Evaluation:
        """Accuracy and mean cross entropy."""
        return evaluate(model, batches, parallel=parallel)
