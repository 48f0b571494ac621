"""What an objective says of a batch is what the data holds."""

from __future__ import annotations

import pytest

from parity import recipes
from parity.configs.augmentation import Augmentation
from parity.data import open_source, train_batches
from vit_jax.objectives import make_objective as make_flax
from vit_torch.objectives import make_objective as make_torch


@pytest.mark.parametrize("augmentation", [Augmentation(shift=1), Augmentation(mixup=0.8, cutmix=1.0)])
def test_a_batch_holds_what_its_objective_says(augmentation):
    recipe = recipes.get("digits", batch_size=4, data=recipes.Data(name="digits", augmentation=augmentation))
    config = recipe.config(10)
    iterator = train_batches(
        open_source("digits", "train"),
        batch_size=4,
        image_size=config.image_size,
        preprocessing=config.preprocessing,
        augmentation=augmentation,
        seed=0,
        num_threads=0,
    )
    found = {name: (value.shape, str(value.dtype)) for name, value in next(iterator).items()}
    iterator.close()
    assert found == make_flax(recipe, config).batch() == make_torch(recipe, config).batch()
