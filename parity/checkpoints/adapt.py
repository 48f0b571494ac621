"""A checkpoint's tensors for a config that differs in image size or classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..configs import Config, replace
from .native import Checkpoint
from .resize import resize_grid
from .tensors import shapes_of

HEADS = ("head", "head_dist")


class Overlay(Mapping[str, np.ndarray]):
    """Tensors of which some are replaced and some left out; the others stay lazy.

    Args:
        base: The tensors.
        changed: Replacements and additions by name; None leaves a tensor out.
    """

    def __init__(self, base: Mapping[str, np.ndarray], changed: Mapping[str, np.ndarray | None]):
        self._base = base
        self._changed = {name: value for name, value in changed.items() if value is not None}
        self._names = [name for name in base if name not in changed] + list(self._changed)

    def __getitem__(self, name: str) -> np.ndarray:
        """One tensor."""
        if name in self._changed:
            return self._changed[name]
        if name in self._names:
            return self._base[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor; reads none."""
        shapes = {name: shape for name, shape in shapes_of(self._base).items() if name in self._names}
        return shapes | {name: value.shape for name, value in self._changed.items()}


def adapt(
    checkpoint: Checkpoint,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> tuple[Config, Mapping[str, np.ndarray]]:
    """The config and the tensors of a checkpoint at another image size or with another head.

    Args:
        checkpoint: An opened one.
        image_size: Another input size; a learned position grid is resized with the config's own kernel.
        num_classes: Another number of classes: new heads, normal with a standard deviation of 0.02 from seed 0; 0
            leaves them out.

    Raises:
        ValueError: A size that the patch size doesn't divide.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    changed: dict[str, np.ndarray | None] = {}
    if image_size is not None:
        new = replace(config, image_size=image_size)
        if config.pos_embed == "learned" and new.grid_size != config.grid_size and "pos_embed" in tensors:
            changed["pos_embed"] = _resized_positions(tensors["pos_embed"], config, new)
        config = new
    if num_classes is not None and num_classes != config.num_classes:
        config = replace(config, num_classes=num_classes)
        rng = np.random.default_rng(0)
        for head in HEADS[: 1 + config.dist_token]:
            weight = rng.normal(0, 0.02, (num_classes, config.embed_dim)).astype(np.float32)
            changed[f"{head}.weight"] = weight if num_classes else None
            changed[f"{head}.bias"] = np.zeros(num_classes, np.float32) if num_classes else None
    return config, Overlay(tensors, changed) if changed else tensors


def _resized_positions(positions: np.ndarray, old: Config, new: Config) -> np.ndarray:
    """Position embeddings (1, prefix + n, d) of another grid; those of the prefix tokens stay."""
    prefix = old.num_prefix_tokens if old.pos_embed_prefix else 0
    grid = positions[0, prefix:].reshape(*old.grid_size, -1)
    resized = resize_grid(grid, new.grid_size, old.pos_embed_resize).astype(positions.dtype)
    return np.concatenate([positions[:, :prefix], resized.reshape(1, -1, resized.shape[-1])], axis=1)
