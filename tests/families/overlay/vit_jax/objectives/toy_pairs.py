"""Images and the texts of their labels find each other in a batch. Twin: `vit_torch/objectives/toy_pairs.py`.

After Radford et al. 2021, arXiv:2103.00020, figure 3: cross entropy of the rows and of the columns of the scaled
cosines with the place of the pair. Texts are made up from labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import random
from ..evaluate import Evaluation, evaluate
from ..losses import cross_entropy
from ..models import Model
from ..normalize import normalize
from .objective import Arrays, Carried, Loss, Objective


def texts_of(labels: Int[Array, "b"], config: Any) -> Int[Array, "b t"]:
    """The token ids of each label's text."""
    places = jnp.arange(config.text_length, dtype=labels.dtype)
    return (labels[:, None] * 5 + places * 3 + 1) % config.vocabulary


class ZeroShot(Model):
    """Towers as a classifier: the scaled cosines of images and of the text of each class.

    Args:
        towers: The towers.
        num_classes: The number of classes.
    """

    def __init__(self, towers: Model, num_classes: int):
        super().__init__(False)
        self.towers = towers
        self.num_classes = num_classes
        self.config = towers.config

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        """Logits of each class."""
        texts = texts_of(jnp.arange(self.num_classes, dtype=jnp.int32), self.config)
        return self.towers(images, texts)


class ToyPairs(Objective):
    """The mean of both cross entropies."""

    def inputs(self, batch: Arrays) -> dict[str, jax.Array]:
        """Normalised images (b, h, w, c) and token ids (b, t)."""
        dtype = jnp.dtype(self.recipe.precision)
        images = normalize(batch["image"], self.config.preprocessing, dtype)
        return {"images": images, "tokens": texts_of(batch["label"], self.config)}

    def loss(self, model: Any, frozen: Mapping[str, Any], carried: Carried, inputs: Arrays, key: random.Key) -> Loss:
        """The mean loss, and the share of the images whose greatest logit is at their text."""
        logits = model(inputs["images"], inputs["tokens"], key=key)
        places = jnp.arange(logits.shape[0])
        loss = (cross_entropy(logits, places) + cross_entropy(logits.T, places)) / 2
        return Loss(loss.mean(), {"accuracy": (logits.argmax(axis=-1) == places).mean()}, {})

    def evaluate(
        self, model: Any, batches: Iterable[Mapping[str, np.ndarray]], *, mesh: jax.sharding.Mesh | None = None
    ) -> Evaluation:
        """Accuracy and mean cross entropy as a classifier."""
        options: Any = self.recipe.objective
        return evaluate(ZeroShot(model, options.num_classes), batches, mesh=mesh)
