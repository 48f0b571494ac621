"""The optimiser's rules that every framework shares, in plain Python: which tensors decay, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..configs import Config
from .recipe import Optimizer

# What each optimiser remembers of a tensor, in optax's words.
MOMENTS: dict[str, tuple[str, ...]] = {"adamw": ("mu", "nu"), "sgd": ("trace",)}
# What comes after the blocks, by the first part of its name; anything else outside of the blocks comes before them.
_AFTER_BLOCKS = ("norm", "cls_norm", "fc_norm", "attn_pool", "pre_logits", "head", "head_dist")


def expect_trainable(config: Config) -> None:
    """Raises ValueError for a model with BatchNorm, whose statistics training would have to update."""
    if config.stem != "patch":
        expected = "'patch' for training, which doesn't update the statistics of BatchNorm"
        raise ValueError(f"stem: got {config.stem!r}, expected {expected}")


def decays(name: str, shape: Sequence[int]) -> bool:
    """Whether weight decay applies to a tensor.

    It does to the kernels of linear layers and convolutions, and not to norms, biases, tokens, position embeddings,
    LayerScale and the query of attention pooling.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        shape: In the canonical layout.
    """
    return name.endswith(".weight") and len(shape) > 1


def learning_rate_scale(name: str, *, depth: int, layer_decay: float) -> float:
    """Factor of a tensor's learning rate: 1 after the blocks, times `layer_decay` for each block towards the input.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        depth: Number of blocks.
        layer_decay: Of the recipe's optimiser.
    """
    first, *rest = name.split(".")
    after = 0 if first in _AFTER_BLOCKS else depth + 1
    return layer_decay ** (depth - int(rest[0]) if first == "blocks" else after)


def learning_rate(step: int, optimizer: Optimizer, steps: int) -> float:
    """Linear from 0 to `learning_rate` during the warm-up, then half a cosine down to `min_learning_rate`.

    Args:
        step: From 0, so that the first step of a warm-up has rate 0.
        optimizer: The rates and the warm-up.
        steps: Of the whole run.
    """
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    left = max(0, steps - step) / max(1, steps - optimizer.warmup_steps)
    height = optimizer.learning_rate - optimizer.min_learning_rate
    # (1 + cos(pi (1 - left))) / 2, which at the end would have few digits left in float32.
    return optimizer.min_learning_rate + height * math.sin(math.pi / 2 * left) ** 2
