"""A checkpoint's tensors for a config that differs in image size, patch size or classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..configs import Config, replace
from .checkpoint import Checkpoint
from .containers.overlay import Overlay
from .resize import resize_grid, resize_patch_kernel, resize_rel_pos_table
from .shapes import parameter_shapes

HEADS = ("head", "head_dist")
PATCH_KERNEL = "patch_embed.proj.weight"
POSITIONS = "pos_embed"
REL_POS_TABLE = "relative_position_bias_table"


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
        checkpoint: An opened one.
        image_size: Another input size; whatever has entries for the grid is resized with the config's own kernels.
        patch_size: Another patch size; the patch embedding is resized too, by the pseudo-inverse (FlexiViT).
        num_classes: Another number of classes: new heads, normal with a standard deviation of 0.02; 0 leaves
            them out.
        global_pool: Another pooling, of those that have no parameters: some sources don't pool at all (MAE) or
            otherwise than others do (DINOv3).
        seed: Of new heads.
        dtype: Of what is resized, which happens in float64 and is rounded once; None for that of the tensors.

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
    changed: dict[str, np.ndarray | None] = {
        name: value.astype(tensors[name].dtype if dtype is None else dtype)
        for name, value in _resized(tensors, config, new)
    }
    if num_classes is not None and (num_classes != config.num_classes or new.pooled_dim != config.pooled_dim):
        new = replace(new, num_classes=num_classes)
        changed |= dict.fromkeys(name for name in tensors if name.split(".")[0] in HEADS)
        changed |= dict(_new_heads(new, seed))
    return new, Overlay(tensors, changed) if changed else tensors


def _with_pooling(config: Config, global_pool: str, num_classes: int | None) -> Config:
    """A config that pools otherwise; its head must fit, or be made anew."""
    new = replace(config, global_pool=global_pool, num_classes=0 if global_pool == "none" else config.num_classes)
    if num_classes is None and (new.pooled_dim != config.pooled_dim or new.num_classes != config.num_classes):
        raise ValueError(f"global_pool: got {global_pool!r}, which the head doesn't fit; expected num_classes with it")
    return new


def _new_heads(config: Config, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for name, shape in parameter_shapes(config).items():
        if name.split(".")[0] in HEADS:
            value = rng.normal(0, 0.02, shape) if name.endswith(".weight") else np.zeros(shape)
            yield name, value.astype(np.float32)


def _resized(tensors: Mapping[str, np.ndarray], old: Config, new: Config) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors whose shape follows from the image or the patch size, where it has changed; in float64."""
    for name in tensors:
        if name == PATCH_KERNEL and new.patch_size != old.patch_size:
            yield name, resize_patch_kernel(tensors[name], new.patch_size, old.patch_resize)
        if new.grid_size == old.grid_size:
            continue
        if name == POSITIONS:
            yield name, _resized_positions(tensors[name], old, new)
        elif name.endswith(REL_POS_TABLE):
            yield name, resize_rel_pos_table(tensors[name], old.grid_size, new.grid_size, old.rel_pos_resize)


def _resized_positions(positions: np.ndarray, old: Config, new: Config) -> np.ndarray:
    """Position embeddings (1, prefix + n, d) of another grid; those of the prefix tokens stay."""
    prefix = old.num_pos_embed_prefix
    grid = positions[0, prefix:].reshape(*old.grid_size, -1)
    resized = resize_grid(grid, new.grid_size, old.pos_embed_resize)
    return np.concatenate([positions[:, :prefix].astype(np.float64), resized.reshape(1, -1, resized.shape[-1])], axis=1)
