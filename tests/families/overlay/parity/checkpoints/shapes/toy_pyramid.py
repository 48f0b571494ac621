"""Canonical names and shapes of the toy pyramid's tensors; none follows from the size of the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs.toy_pyramid import ToyPyramidConfig

Shape = tuple[int, ...]


def shapes(config: ToyPyramidConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter, and of the statistics of BatchNorm."""
    yield from _conv_and_norm("stem.conv", "stem.norm", config.in_chans, config.dims[0], 3)
    for i in range(config.num_stages):
        dim, name = config.dims[i + 1], f"stages.{i}"
        yield from _conv_and_norm(f"{name}.down.conv", f"{name}.down.norm", config.dims[i], dim, 2)
        yield from _conv_and_norm(f"{name}.conv", f"{name}.norm", dim, dim, 3)
    for i in range(config.num_blocks):
        yield from _block(f"blocks.{i}", config.dims[-1], config.mlp_dim)
    yield from _affine("norm", config.dims[-1])
    if config.num_classes:
        yield "head.weight", (config.num_classes, config.dims[-1])
        yield "head.bias", (config.num_classes,)


def resized(
    tensors: Mapping[str, np.ndarray], old: ToyPyramidConfig, new: ToyPyramidConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """No tensor: convolutions and attention without positions fit any size."""
    return iter(())


def _conv_and_norm(conv: str, norm: str, inputs: int, outputs: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{conv}.weight", (outputs, inputs, kernel, kernel)
    yield from _affine(norm, outputs)
    for statistic in ("running_mean", "running_var"):
        yield f"{norm}.{statistic}", (outputs,)


def _block(name: str, dim: int, hidden: int) -> Iterator[tuple[str, Shape]]:
    yield from _affine(f"{name}.norm1", dim)
    for layer, inputs, outputs in (("attn.qkv", dim, 3 * dim), ("attn.proj", dim, dim)):
        yield from _linear(f"{name}.{layer}", inputs, outputs)
    yield from _affine(f"{name}.norm2", dim)
    for layer, inputs, outputs in (("mlp.fc1", dim, hidden), ("mlp.fc2", hidden, dim)):
        yield from _linear(f"{name}.{layer}", inputs, outputs)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _affine(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)
