"""The optimiser's rules that every framework shares, in plain Python: which tensors decay, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..configs import Config
from .recipe import Optimizer, Recipe

# How the share of new parameters in their average falls in timm's warm-up.
AVERAGE_POWER = -2 / 3
# Layers whose results are logits, by their first name.
HEADS = ("head", "head_dist", "fc")
# Networks that make positions of distances, as in Swin V2: small ones, whose sums are over few pairs.
POSITIONS = "cpb_mlp"
# What each optimiser remembers of a tensor, in optax's words.
MOMENTS: dict[str, tuple[str, ...]] = {"adamw": ("mu", "nu"), "sgd": ("trace",)}


def decays(name: str, shape: Sequence[int]) -> bool:
    """Whether weight decay applies to a tensor.

    It does to the kernels of linear layers and convolutions, and not to norms, biases, tokens, position embeddings,
    LayerScale and the query of attention pooling.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        shape: Its shape in the canonical layout.
    """
    return name.endswith(".weight") and len(shape) > 1


def is_cast(name: str, shape: Sequence[int]) -> bool:
    """Whether mixed precision computes with a tensor in the recipe's precision; the others stay in float32.

    Cast are the factors of matrix products, the kernels of linear layers and convolutions. Norms, biases, LayerScale,
    tokens and positions are added or multiplied in float32, as under PyTorch's autocast, so that their gradients are
    float32 sums over batch and tokens; and so is the head's product, as in big_vision, so that logits are float32, and
    the networks that make positions.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        shape: Its shape, in the canonical or in the Flax layout.
    """
    path = name.split(".")
    return path[-1] == "weight" and len(shape) > 1 and path[0] not in HEADS and POSITIONS not in path


def learning_rate_scale(name: str, config: Config, layer_decay: float) -> float:
    """Factor of a tensor's learning rate: 1 after the blocks, times `layer_decay` for each block towards the input.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        config: The config of the model, which says where the tensor lies.
        layer_decay: The factor of the recipe's optimiser.
    """
    return layer_decay ** (config.depth + 1 - config.layer_of(name))


def learning_rate(step: int, optimizer: Optimizer, steps: int) -> float:
    """Linear from 0 to `learning_rate` during the warm-up, then half a cosine down to `min_learning_rate`.

    Args:
        step: The step, from 0, so that the first step of a warm-up has rate 0.
        optimizer: The rates and the warm-up.
        steps: The steps of the whole run.
    """
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    left = max(0, steps - step) / max(1, steps - optimizer.warmup_steps)
    height = optimizer.learning_rate - optimizer.min_learning_rate
    # (1 + cos(pi (1 - left))) / 2, which at the end would have few digits left in float32.
    return optimizer.min_learning_rate + height * math.sin(math.pi / 2 * left) ** 2


def average_share(step: int, recipe: Recipe) -> float:
    """The share of the new parameters in their average, after a step: average + share * (new - average).

    It is 1 - `ema_decay`, as in big_vision's JetFormer; with timm's warm-up it is at first larger,
    (1 + step)^(-2/3), so that the first step copies (`ModelEmaV3` with `use_warmup`, gamma 1 and power 2/3).

    Args:
        step: The step, from 0.
        recipe: A recipe with an `ema_decay`.
    """
    least = 1 - (recipe.ema_decay or 0)
    return max(least, (1 + step) ** AVERAGE_POWER) if recipe.ema_warmup == "timm" else least
