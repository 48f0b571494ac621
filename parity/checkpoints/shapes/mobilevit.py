"""Canonical names and shapes of a MobileViT's tensors; none follows from the size of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs.mobilevit import MobileVitConfig

Shape = tuple[int, ...]


def shapes(config: MobileVitConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter and statistic."""
    yield from _conv_norm("stem", config.in_chans, config.stem_dim, 3)
    for stage, dim in enumerate(config.dims):
        for block in range(config.depths[stage]):
            name = f"stages.{stage}.{block}"
            inputs, hidden, _ = config.convolution(stage, block)
            yield from _conv_norm(f"{name}.conv1_1x1", inputs, hidden, 1)
            yield from _conv_norm(f"{name}.conv2_kxk", 1, hidden, 3)
            yield from _conv_norm(f"{name}.conv3_1x1", hidden, dim, 1)
        if config.transformer_depths[stage]:
            yield from _transformer(f"stages.{stage}.{config.depths[stage]}", config, stage)
    if config.out_dim:
        yield from _conv_norm("final_conv", config.dims[-1], config.out_dim, 1)
    if config.num_classes:
        yield from _linear("head.fc", config.width, config.num_classes)


def resized(
    tensors: Mapping[str, np.ndarray], old: MobileVitConfig, new: MobileVitConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Nothing: a model takes images of every size as it is."""
    yield from ()


def _transformer(name: str, config: MobileVitConfig, stage: int) -> Iterator[tuple[str, Shape]]:
    dim, inner, hidden = config.dims[stage], config.transformer_dims[stage], config.mlp_dims[stage]
    first = config.version == 1
    ones = () if first else (1, 1)
    yield from _conv_norm(f"{name}.conv_kxk", dim if first else 1, dim, 3)
    yield f"{name}.conv_1x1.weight", (inner, dim, 1, 1)
    for block in range(config.transformer_depths[stage]):
        own = f"{name}.transformer.{block}"
        yield from _both(f"{own}.norm1", inner)
        if first:
            yield f"{own}.attn.qkv.weight", (3 * inner, inner)
            if config.qkv_bias:
                yield f"{own}.attn.qkv.bias", (3 * inner,)
            yield from _linear(f"{own}.attn.proj", inner, inner)
        else:
            yield from _linear(f"{own}.attn.qkv_proj", inner, 1 + 2 * inner, ones)
            yield from _linear(f"{own}.attn.out_proj", inner, inner, ones)
        yield from _both(f"{own}.norm2", inner)
        yield from _linear(f"{own}.mlp.fc1", inner, hidden, ones)
        yield from _linear(f"{own}.mlp.fc2", hidden, inner, ones)
    yield from _both(f"{name}.norm", inner)
    yield from _conv_norm(f"{name}.conv_proj", inner, dim, 1)
    if first:
        yield from _conv_norm(f"{name}.conv_fusion", 2 * dim, dim, 3)


def _conv_norm(name: str, inputs: int, dim: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.conv.weight", (dim, inputs, side, side)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.bn.{part}", (dim,)


def _linear(name: str, inputs: int, outputs: int, sides: Shape = ()) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, *sides)
    yield f"{name}.bias", (outputs,)


def _both(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)
