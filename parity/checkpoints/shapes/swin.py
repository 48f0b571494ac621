"""Canonical names and shapes of a Swin Transformer's tensors; tables of relative positions follow from the windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs.swin import SwinConfig
from ..resize import resize_patch_kernel, resize_rel_pos_table

Shape = tuple[int, ...]

# The hidden width of the network of relative positions.
_POSITIONS = 512


def shapes(config: SwinConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter."""
    yield "patch_embed.proj.weight", (config.embed_dim, config.in_chans, *config.patch_size)
    yield "patch_embed.proj.bias", (config.embed_dim,)
    yield from _norm("patch_embed.norm", config.embed_dim)
    for stage, dim in enumerate(config.dims):
        name = f"layers.{stage}"
        if stage:
            yield from _merging(f"{name}.downsample", config.dims[stage - 1], dim, config)
        for block in range(config.depths[stage]):
            yield from _block(f"{name}.blocks.{block}", config, stage, block)
    yield from _norm("norm", config.dims[-1])
    if config.num_classes:
        yield from _linear("head.fc", config.dims[-1], config.num_classes)


def resized(tensors: Mapping[str, np.ndarray], old: SwinConfig, new: SwinConfig) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors whose shape follows from windows or the patch size, where it has changed; in float64."""
    for name in tensors:
        if name == "patch_embed.proj.weight" and new.patch_size != old.patch_size:
            yield name, resize_patch_kernel(tensors[name], new.patch_size, "bicubic_antialias")
        elif name.endswith("relative_position_bias_table"):
            stage, block = (int(part) for part in name.split(".")[1:4:2])
            windows = [config.window(stage, block)[0] for config in (old, new)]
            if windows[0] != windows[1]:
                yield name, resize_rel_pos_table(tensors[name], windows[0], windows[1], old.rel_pos_resize)


def _merging(name: str, inputs: int, dim: int, config: SwinConfig) -> Iterator[tuple[str, Shape]]:
    if config.version == 1:
        yield from _norm(f"{name}.norm", 4 * inputs)
    yield f"{name}.reduction.weight", (dim, 4 * inputs)
    if config.version == 2:
        yield from _norm(f"{name}.norm", dim)


def _block(name: str, config: SwinConfig, stage: int, block: int) -> Iterator[tuple[str, Shape]]:
    dim, hidden = config.dims[stage], config.mlp_dim * 2**stage
    if config.version == 2:
        yield from _cosine_attention(f"{name}.attn", dim, config.num_heads[stage])
        yield from _norm(f"{name}.norm1", dim)
        yield from _linear(f"{name}.mlp.fc1", dim, hidden)
        yield from _linear(f"{name}.mlp.fc2", hidden, dim)
        yield from _norm(f"{name}.norm2", dim)
        return
    yield from _norm(f"{name}.norm1", dim)
    height, width = config.window(stage, block)[0]
    rows = (2 * height - 1) * (2 * width - 1)
    yield f"{name}.attn.relative_position_bias_table", (rows, config.num_heads[stage])
    yield from _linear(f"{name}.attn.qkv", dim, 3 * dim)
    yield from _linear(f"{name}.attn.proj", dim, dim)
    yield from _norm(f"{name}.norm2", dim)
    yield from _linear(f"{name}.mlp.fc1", dim, hidden)
    yield from _linear(f"{name}.mlp.fc2", hidden, dim)


def _cosine_attention(name: str, dim: int, num_heads: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.logit_scale", (num_heads, 1, 1)
    for bias in ("q_bias", "v_bias"):
        yield f"{name}.{bias}", (dim,)
    yield from _linear(f"{name}.cpb_mlp.0", 2, _POSITIONS)
    yield f"{name}.cpb_mlp.2.weight", (num_heads, _POSITIONS)
    yield f"{name}.qkv.weight", (3 * dim, dim)
    yield from _linear(f"{name}.proj", dim, dim)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)
