"""A checkpoint's tensors for a config that differs in image size, patch size or classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..configs import Config
from .checkpoint import Checkpoint
from .containers.overlay import Overlay
from .shapes import Shape, parameter_shapes, resized


def adapt(
    checkpoint: Checkpoint,
    *,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
    seed: int = 0,
    dtype: np.dtype | None = None,
) -> tuple[Config, Mapping[str, np.ndarray]]:
    """The config and the tensors of a checkpoint at another image or patch size, or with another head.

    Args:
        checkpoint: An opened checkpoint.
        image_size: Another input size; whatever has entries for the grid is resized with the config's own kernels.
        patch_size: Another patch size; the patch embedding is resized too, by the pseudo-inverse (FlexiViT).
        num_classes: Another number of classes: new heads, normal with a standard deviation of 0.02; 0 leaves
            them out.
        global_pool: Another pooling, of those that have no parameters: some sources don't pool at all (MAE) or
            otherwise than others do (DINOv3).
        seed: The seed of new heads.
        dtype: The type of what is resized, in float64 and rounded once; None for that of the tensors.

    Raises:
        ValueError: Something that the family lacks, a size that the patch size doesn't divide, or a pooling with
            parameters.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    changes = {"image_size": image_size, "patch_size": patch_size, "global_pool": global_pool}
    new = config.adapted(num_classes=num_classes, **changes)
    changed: dict[str, np.ndarray | None] = {
        name: value.astype(tensors[name].dtype if dtype is None else dtype)
        for name, value in resized(tensors, config, new)
    }
    if num_classes is not None and (num_classes != config.num_classes or _heads(new) != _heads(config)):
        changed |= dict.fromkeys(name for name in tensors if is_head(config, name))
        changed |= dict(_new_heads(new, seed))
    return new, Overlay(tensors, changed) if changed else tensors


def is_head(config: Config, name: str) -> bool:
    """Whether a tensor is of a head, which another number of classes makes anew."""
    return any(name.startswith(f"{head}.") for head in config.heads)


def _heads(config: Config) -> dict[str, Shape]:
    return {name: shape for name, shape in parameter_shapes(config).items() if is_head(config, name)}


def _new_heads(config: Config, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for name, shape in _heads(config).items():
        value = rng.normal(0, 0.02, shape) if name.endswith(".weight") else np.zeros(shape)
        yield name, value.astype(np.float32)
