"""Canonical names and shapes of a Pyramid Vision Transformer's tensors; none follows from the size of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs.pvt import PvtConfig

Shape = tuple[int, ...]


def shapes(config: PvtConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter."""
    yield from _embedding("patch_embed", config.in_chans, config.embed_dims[0], 7)
    for stage, dim in enumerate(config.embed_dims):
        name = f"stages.{stage}"
        if stage:
            yield from _embedding(f"{name}.downsample", config.embed_dims[stage - 1], dim, 3)
        for block in range(config.depths[stage]):
            yield from _block(f"{name}.blocks.{block}", config, stage)
        yield from _both(f"{name}.norm", dim)
    if config.num_classes:
        yield from _linear("head", config.embed_dims[-1], config.num_classes)


def resized(tensors: Mapping[str, np.ndarray], old: PvtConfig, new: PvtConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Nothing: a model takes images of every size as it is."""
    yield from ()


def _block(name: str, config: PvtConfig, stage: int) -> Iterator[tuple[str, Shape]]:
    dim, hidden, ratio = config.embed_dims[stage], config.mlp_dims[stage], config.sr_ratios[stage]
    yield from _both(f"{name}.norm1", dim)
    for part, outputs in (("q", dim), ("kv", 2 * dim)):
        yield f"{name}.attn.{part}.weight", (outputs, dim)
        if config.qkv_bias:
            yield f"{name}.attn.{part}.bias", (outputs,)
    yield from _linear(f"{name}.attn.proj", dim, dim)
    if config.linear or ratio > 1:
        side = 1 if config.linear else ratio
        yield f"{name}.attn.sr.weight", (dim, dim, side, side)
        yield f"{name}.attn.sr.bias", (dim,)
        yield from _both(f"{name}.attn.norm", dim)
    yield from _both(f"{name}.norm2", dim)
    yield from _linear(f"{name}.mlp.fc1", dim, hidden)
    yield f"{name}.mlp.dwconv.weight", (hidden, 1, 3, 3)
    yield f"{name}.mlp.dwconv.bias", (hidden,)
    yield from _linear(f"{name}.mlp.fc2", hidden, dim)


def _embedding(name: str, inputs: int, dim: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.proj.weight", (dim, inputs, side, side)
    yield f"{name}.proj.bias", (dim,)
    yield from _both(f"{name}.norm", dim)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _both(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)
