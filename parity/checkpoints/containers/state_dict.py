"""Which part of a training checkpoint are the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .stored import short

# Where training scripts keep the weights, by preference: the plain ones, then a teacher's, which self-supervised
# methods publish, then averages.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "params",
    "teacher",
    "target_encoder",
    "encoder",
    "student",
    "state_dict_ema",
    "model_ema",
    "ema",
)
# What wrappers of a whole model (DistributedDataParallel, torch.compile) put before each name.
_PREFIXES = ("module.", "_orig_mod.")
_MAX_DEPTH = 8


def choose_weights(value: Any, is_tensor: Callable[[Any], bool]) -> tuple[dict[str, Any], dict[str, str]]:
    """The weights in what a training script saved, and why each other part is left out.

    Args:
        value: Dictionaries within dictionaries, with tensors somewhere in them.
        is_tensor: Tells a tensor.

    Returns:
        Tensors by name, without a prefix that all names share because the whole model was wrapped; and the reason for
        each part that is ignored, by its path.

    Raises:
        ValueError: No tensors by name are found; says which keys there are.
    """
    ignored: dict[str, str] = {}
    path = ""
    for _ in range(_MAX_DEPTH):
        if not isinstance(value, dict):
            break
        wrappers = [key for key in WRAPPERS if _holds(value.get(key), is_tensor)]
        if not wrappers:
            break
        chosen = wrappers[0]
        for key in value:
            if key != chosen:
                reason = f"another set of weights; {path}{chosen} is read" if key in wrappers else "no weights"
                ignored[f"{path}{key}"] = reason
        value, path = value[chosen], f"{path}{chosen}."
    keys = list(value) if isinstance(value, dict) else []
    tensors = {key: value[key] for key in keys if isinstance(key, str) and is_tensor(value[key])}
    if not tensors:
        got = f"the keys {short(keys)}" if isinstance(value, dict) else short(value)
        raise ValueError(f"got {got}, expected tensors by name, or them in one of {', '.join(WRAPPERS)}")
    ignored |= {f"{path}{key}": "no tensor" for key in keys if key not in tensors}
    return _without_prefixes(tensors), ignored


def _holds(value: Any, is_tensor: Callable[[Any], bool]) -> bool:
    """Whether a value is a dictionary with tensors, or one that may be around it."""
    return isinstance(value, dict) and (
        any(is_tensor(child) for child in value.values()) or any(isinstance(value.get(key), dict) for key in WRAPPERS)
    )


def _without_prefixes(tensors: dict[str, Any]) -> dict[str, Any]:
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
