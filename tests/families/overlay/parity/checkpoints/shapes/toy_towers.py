"""Canonical names and shapes of the toy towers' tensors, and what becomes of the positions at another size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs.toy_towers import ToyTowersConfig
from ..resize import resize_grid

Shape = tuple[int, ...]


def shapes(config: ToyTowersConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter."""
    dim = config.image_dim
    yield "logit_scale", ()
    yield "visual.pos_embed", (1, config.num_patches, dim)
    yield "visual.patch_embed.proj.weight", (dim, config.in_chans, *config.patch_size)
    yield "visual.patch_embed.proj.bias", (dim,)
    yield from _tower("visual", dim, config.depth, config)
    yield "text.pos_embed", (1, config.text_length, config.text_dim)
    yield "text.token_embed.weight", (config.vocabulary, config.text_dim)
    yield from _tower("text", config.text_dim, config.text_depth, config)


def resized(
    tensors: Mapping[str, np.ndarray], old: ToyTowersConfig, new: ToyTowersConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """The positions of the patches."""
    if old.grid_size != new.grid_size:
        positions = tensors["visual.pos_embed"][0].reshape(*old.grid_size, -1)
        moved = resize_grid(positions, new.grid_size, "bicubic_antialias")
        yield "visual.pos_embed", moved.reshape(1, -1, old.image_dim)


def _tower(name: str, dim: int, depth: int, config: ToyTowersConfig) -> Iterator[tuple[str, Shape]]:
    for i in range(depth):
        block = f"{name}.blocks.{i}"
        yield from _affine(f"{block}.norm1", dim)
        yield from _linear(f"{block}.attn.qkv", dim, 3 * dim)
        yield from _linear(f"{block}.attn.proj", dim, dim)
        yield from _affine(f"{block}.norm2", dim)
        yield from _linear(f"{block}.mlp.fc1", dim, config.mlp_dim)
        yield from _linear(f"{block}.mlp.fc2", config.mlp_dim, dim)
    yield from _affine(f"{name}.norm", dim)
    yield f"{name}.proj.weight", (config.embed_dim, dim)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _affine(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)
