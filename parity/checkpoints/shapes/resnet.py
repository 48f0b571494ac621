"""Canonical names and shapes of a ResNet's tensors; none follows from the size of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs.resnet import ResNetConfig

Shape = tuple[int, ...]


def shapes(config: ResNetConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter and statistic."""
    yield from _conv_norm("conv1", "bn1", config.in_chans, config.width, 7)
    dim = config.width
    for stage, inner in enumerate(config.inner_dims):
        for block in range(config.depths[stage]):
            name, outer = f"layer{stage + 1}.{block}.", config.dims[stage]
            if config.block == "basic":
                convs = ((dim, outer, 3), (outer, outer, 3))
            else:
                convs = ((dim, inner, 1), (inner, inner, 3), (inner, outer, 1))
            for number, (inputs, outputs, side) in enumerate(convs, 1):
                yield from _conv_norm(f"{name}conv{number}", f"{name}bn{number}", inputs, outputs, side)
            if config.shrinks(stage, block)[1]:
                yield from _conv_norm(f"{name}downsample.0", f"{name}downsample.1", dim, outer, 1)
            dim = outer
    if config.num_classes:
        yield "fc.weight", (config.num_classes, dim)
        yield "fc.bias", (config.num_classes,)


def resized(
    tensors: Mapping[str, np.ndarray], old: ResNetConfig, new: ResNetConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Nothing: a model takes images of every size as it is."""
    yield from ()


def _conv_norm(conv: str, norm: str, inputs: int, outputs: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{conv}.weight", (outputs, inputs, side, side)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{part}", (outputs,)
