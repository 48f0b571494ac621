"""A checkpoint's tensors for a config that differs in image size, patch size or classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..configs import Config, replace
from .native import Checkpoint
from .resize import resize_grid, resize_patch_kernel, resize_rel_pos_table
from .shapes import parameter_shapes
from .tensors import dtypes_of, shapes_of, slice_of

HEADS = ("head", "head_dist")
PATCH_KERNEL = "patch_embed.proj.weight"
POSITIONS = "pos_embed"
REL_POS_TABLE = "relative_position_bias_table"


class Overlay(Mapping[str, np.ndarray]):
    """Tensors of which some are replaced and some left out; the others stay lazy.

    Args:
        base: The tensors.
        changed: Replacements and additions by name; None leaves a tensor out.
    """

    def __init__(self, base: Mapping[str, np.ndarray], changed: Mapping[str, np.ndarray | None]):
        self._base = base
        self._changed = {name: value for name, value in changed.items() if value is not None}
        self._names = dict.fromkeys([*(name for name in base if name not in changed), *self._changed])

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

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor; reads none."""
        dtypes = {name: dtype for name, dtype in dtypes_of(self._base).items() if name in self._names}
        return dtypes | {name: value.dtype for name, value in self._changed.items()}

    def slice(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of one tensor; of one that is in a file, nothing else is read."""
        return self._changed[name][index] if name in self._changed else slice_of(self._base, name, index)


def adapt(
    checkpoint: Checkpoint,
    *,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
) -> tuple[Config, Mapping[str, np.ndarray]]:
    """The config and the tensors of a checkpoint at another image or patch size, or with another head.

    Args:
        checkpoint: An opened one.
        image_size: Another input size; whatever has entries for the grid is resized with the config's own kernels.
        patch_size: Another patch size; the patch embedding is resized too, by the pseudo-inverse (FlexiViT).
        num_classes: Another number of classes: new heads, normal with a standard deviation of 0.02 from seed 0; 0
            leaves them out.
        global_pool: Another pooling, of those that have no parameters: some sources don't pool at all (MAE) or
            otherwise than others do (DINOv3).

    Raises:
        ValueError: A size that the patch size doesn't divide, or a pooling with parameters.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    sizes = {"image_size": image_size, "patch_size": patch_size}
    new = replace(config, **{name: size for name, size in sizes.items() if size is not None})
    if global_pool is not None and global_pool != config.global_pool:
        if "map" in (global_pool, config.global_pool):
            raise ValueError(f"global_pool: got {global_pool!r} for {config.global_pool!r}, but `map` has parameters")
        new = _with_pooling(new, global_pool, num_classes)
    changed: dict[str, np.ndarray | None] = dict(_resized(tensors, config, new))
    if num_classes is not None and (num_classes != config.num_classes or new.pooled_dim != config.pooled_dim):
        new = replace(new, num_classes=num_classes)
        changed |= dict.fromkeys(name for name in tensors if name.split(".")[0] in HEADS)
        changed |= dict(_new_heads(new))
    return new, Overlay(tensors, changed) if changed else tensors


def _with_pooling(config: Config, global_pool: str, num_classes: int | None) -> Config:
    """A config that pools otherwise; its head must fit, or be made anew."""
    new = replace(config, global_pool=global_pool, num_classes=0 if global_pool == "none" else config.num_classes)
    if num_classes is None and (new.pooled_dim != config.pooled_dim or new.num_classes != config.num_classes):
        raise ValueError(f"global_pool: got {global_pool!r}, which the head doesn't fit; expected num_classes with it")
    return new


def _new_heads(config: Config) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for name, shape in parameter_shapes(config).items():
        if name.split(".")[0] in HEADS:
            value = rng.normal(0, 0.02, shape) if name.endswith(".weight") else np.zeros(shape)
            yield name, value.astype(np.float32)


def _resized(tensors: Mapping[str, np.ndarray], old: Config, new: Config) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors whose shape follows from the image or the patch size, where it has changed; in their own dtype."""
    for name in tensors:
        if name == PATCH_KERNEL and new.patch_size != old.patch_size:
            kernel = tensors[name]
            yield name, resize_patch_kernel(kernel, new.patch_size, old.patch_resize).astype(kernel.dtype)
        if new.grid_size == old.grid_size:
            continue
        if name == POSITIONS:
            yield name, _resized_positions(tensors[name], old, new)
        elif name.endswith(REL_POS_TABLE):
            table = tensors[name]
            resized = resize_rel_pos_table(table, old.grid_size, new.grid_size, old.rel_pos_resize)
            yield name, resized.astype(table.dtype)


def _resized_positions(positions: np.ndarray, old: Config, new: Config) -> np.ndarray:
    """Position embeddings (1, prefix + n, d) of another grid; those of the prefix tokens stay."""
    prefix = old.num_pos_embed_prefix
    grid = positions[0, prefix:].reshape(*old.grid_size, -1)
    resized = resize_grid(grid, new.grid_size, old.pos_embed_resize).astype(positions.dtype)
    return np.concatenate([positions[:, :prefix], resized.reshape(1, -1, resized.shape[-1])], axis=1)
