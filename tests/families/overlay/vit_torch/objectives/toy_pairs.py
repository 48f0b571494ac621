"""Images and the texts of their labels find each other in a batch. Twin: `vit_jax/objectives/toy_pairs.py`.

After Radford et al. 2021, arXiv:2103.00020, figure 3: cross entropy of the rows and of the columns of the scaled
cosines with the place of the pair. Texts are made up from labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import random
from ..evaluate import Evaluation, evaluate
from ..losses import cross_entropy
from ..models import Model
from ..normalize import normalize
from .objective import Arrays, Carried, Loss, Objective


def texts_of(labels: Int[Tensor, "b"], config: Any) -> Int[Tensor, "b t"]:
    """The token ids of each label's text."""
    places = torch.arange(config.text_length, dtype=labels.dtype, device=labels.device)
    return (labels[:, None] * 5 + places * 3 + 1) % config.vocabulary


class ZeroShot(Model):
    """Towers as a classifier: the scaled cosines of images and of the text of each class.

    Args:
        towers: The towers.
        num_classes: The number of classes.
    """

    def __init__(self, towers: Model, num_classes: int):
        super().__init__()
        self.towers = towers
        self.num_classes = num_classes
        self.config = towers.config

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits of each class."""
        texts = texts_of(torch.arange(self.num_classes, dtype=torch.int32, device=images.device), self.config)
        return self.towers(images, texts)


class ToyPairs(Objective):
    """The mean of both cross entropies."""

    def inputs(self, batch: Arrays) -> dict[str, Tensor]:
        """Normalised images (b, c, h, w) and token ids (b, t)."""
        dtype = getattr(torch, self.recipe.precision)
        images = normalize(batch["image"], self.config.preprocessing, dtype)
        return {"images": images, "tokens": texts_of(batch["label"], self.config)}

    def loss(self, model: Any, frozen: Mapping[str, Any], carried: Carried, inputs: Arrays, key: random.Key) -> Loss:
        """The mean loss, and the share of the images whose greatest logit is at their text."""
        logits = model(inputs["images"], inputs["tokens"], key=key)
        places = torch.arange(logits.shape[0], device=logits.device)
        loss = (cross_entropy(logits, places) + cross_entropy(logits.mT, places)) / 2
        return Loss(loss.mean(), {"accuracy": (logits.argmax(dim=-1) == places).double().mean()}, {})

    def evaluate(
        self, model: Any, batches: Iterable[Mapping[str, np.ndarray]], *, parallel: bool = False
    ) -> Evaluation:
        """Accuracy and mean cross entropy as a classifier."""
        options: Any = self.recipe.objective
        return evaluate(ZeroShot(model, options.num_classes), batches, parallel=parallel)
