"""The optimiser's rules that every framework shares, in plain Python: which tensors decay, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .recipe import Optimizer


def decays(name: str, shape: Sequence[int]) -> bool:
    """Whether weight decay applies to a tensor.

    It does to the kernels of linear layers and convolutions, and not to norms, biases, tokens, position embeddings,
    LayerScale and the query of attention pooling.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        shape: In the canonical layout.
    """
    return name.endswith(".weight") and len(shape) > 1


def learning_rate(step: int, optimizer: Optimizer, steps: int) -> float:
    """Linear from 0 to `learning_rate` during the warm-up, then half a cosine down to `min_learning_rate`.

    Args:
        step: From 0, so that the first step of a warm-up has rate 0.
        optimizer: The rates and the warm-up.
        steps: Of the whole run.
    """
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    progress = min(1.0, (step - optimizer.warmup_steps) / max(1, steps - optimizer.warmup_steps))
    height = optimizer.learning_rate - optimizer.min_learning_rate
    return optimizer.min_learning_rate + height * (1 + math.cos(math.pi * progress)) / 2
