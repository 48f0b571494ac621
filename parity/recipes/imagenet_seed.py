"""The seed article's configuration: ViT-B/16 on ImageNet-1k from scratch.

The learning rate is 3e-4 after a warm-up of 10,000 of 100,000 steps, weight decay 0.05, batch 512: 40 epochs.

Command: `vit-parity train imagenet_seed`, on machines where TFDS has `imagenet2012` prepared as ArrayRecord.

Cost: an estimate from FLOPs, not a measurement. 51.2 million images times 4 forward passes (the backward pass counts
twice, remat once more) of 35 GFLOPs are 7.2e18: 2.5 hours of eight TPU v5e at half of their bfloat16 peak.

Result: not measured by this project. For orientation, Beyer et al. 2022 (arXiv:2205.01580) report 76.5 % top-1 for a
plain ViT-S/16 after 90 epochs with RandAugment and MixUp; 40 epochs with crops and flips alone should end below that.
"""

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
