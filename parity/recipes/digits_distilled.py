"""A ViT half as wide as that of `digits`, taught by it through a distillation token.

Command: `vit-parity train digits`, then `vit-parity train digits_distilled`

Cost: under a minute on two CPU cores.

Result: 95.8 to 97.8 % test accuracy over seeds 0 to 2 in Flax, with a teacher of 98.1 %. The same model without teacher
and distillation token has 96.7 to 97.5 %, so on these digits the recipe shows how it is done and no gain.
"""

from __future__ import annotations

from ..configs.augmentation import Augmentation
from .objectives import Distillation
from .recipe import Data, Optimizer, Recipe

RECIPE = Recipe(
    model="vit_digits",
    overrides={"embed_dim": 32, "mlp_dim": 64, "class_token": True, "dist_token": True, "global_pool": "token"},
    data=Data(name="digits", augmentation=Augmentation(shift=1, rotate=10.0), num_threads=0),
    batch_size=64,
    steps=1200,
    optimizer=Optimizer(learning_rate=3e-3, warmup_steps=50, weight_decay=0.05),
    objective=Distillation(teacher="runs/digits/model"),
    label_smoothing=0.1,
    eval_every=300,
    checkpoint_every=300,
    log_every=20,
)
