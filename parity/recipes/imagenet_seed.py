"""The seed article's ViT-B/16 on ImageNet."""

from __future__ import annotations

from ..configs import Execution
from ..configs.augmentation import Augmentation
from .recipe import Data, Optimizer, Recipe

RECIPE = Recipe(
    model="vit_base_patch16_224",
    data=Data(
        name="imagenet2012",
        test_split="validation",
        augmentation=Augmentation(random_resized_crop=(0.08, 1.0), horizontal_flip=True),
        num_threads=16,
        num_workers=8,
    ),
    batch_size=512,
    steps=100_000,
    optimizer=Optimizer(learning_rate=3e-4, warmup_steps=10_000, weight_decay=0.05),
    precision="bfloat16",
    execution=Execution(scan=True, remat="block"),
    eval_every=5_000,
    checkpoint_every=2_500,
    log_every=50,
)
