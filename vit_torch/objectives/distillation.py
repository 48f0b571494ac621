"""Learning from a frozen teacher, by a distillation token or without. Twin: `vit_jax/objectives/distillation.py`.

Sources: Touvron et al. 2020, arXiv:2012.12877, section 4; Hinton et al. 2015, arXiv:1503.02531. What is soft and hard,
and where DeiT's code leaves its paper, is said in `parity/recipes/objectives.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from parity import recipes

from .. import random
from ..losses import cross_entropy, divergence
from ..mix import mix_images
from ..normalize import normalize
from ..resize import resize_images
from .classification import Classification
from .objective import Arrays, Carried, Loss


class Distillation(Classification):
    """(1 - alpha) times the cross entropy with the labels, and alpha times the loss against the teacher."""

    def inputs(self, batch: Arrays) -> dict[str, Tensor]:
        """As in a classification, and the same images as the teacher takes them."""
        config, dtype = self.frozen["teacher"].config, getattr(torch, self.recipe.precision)
        # Grey images are the same in each channel of a teacher of colours.
        images = batch["image"].expand(-1, -1, -1, config.in_chans)
        images = normalize(images, config.preprocessing, dtype)
        if self.recipe.data.augmentation.mixes:
            images = mix_images(images, batch["lam"], batch["box"])
        images = resize_images(images, config.image_size, config.preprocessing.interpolation)
        return super().inputs(batch) | {"teacher_images": images}

    def loss(self, model: Any, frozen: Mapping[str, Any], carried: Carried, inputs: Arrays, key: random.Key) -> Loss:
        """The mean of both losses, the accuracy, and the share of the images to which both give the same class."""
        options = self.recipe.objective
        assert isinstance(options, recipes.Distillation)  # the registry of objectives says so
        with torch.no_grad():
            teacher = frozen["teacher"](inputs["teacher_images"])
        # A head for each of the two losses, or one for both.
        heads = model.forward_heads(model.forward_features(inputs["images"], key=key))
        of_labels = cross_entropy(heads[0], inputs["targets"], label_smoothing=self.recipe.label_smoothing)
        if options.kind == "hard":
            of_teacher = cross_entropy(heads[-1], teacher.argmax(dim=-1))
        else:
            of_teacher = divergence(teacher, heads[-1], temperature=options.temperature)
        loss = (1 - options.alpha) * of_labels + options.alpha * of_teacher
        classes = (heads[0] + heads[-1]).argmax(dim=-1)
        metrics = {
            "accuracy": (classes == inputs["labels"]).double().mean(),
            "agreement": (classes == teacher.argmax(dim=-1)).double().mean(),
        }
        return Loss(loss.mean(), metrics, {})
