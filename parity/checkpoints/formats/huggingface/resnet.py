"""ResNets with the stride in a bottleneck's 3 x 3 convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....configs.resnet import EXPANSION, ResNetConfig
from .. import resnet_shapes
from ..staged import block_entries
from ..translate import Entry
from .architecture import Architecture, Json, Setting

_CONVS = {
    f"{ours}{number}": f"layer.{number - 1}.{theirs}"
    for number in (1, 2, 3)
    for ours, theirs in (("conv", "convolution"), ("bn", "normalization"))
}
_SHORTCUT = {"downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization"}
_TABLE = (
    Entry("conv1", "embedder.embedder.convolution"),
    Entry("bn1", "embedder.embedder.normalization"),
    *block_entries(
        lambda stage: f"layer{stage + 1}.{{i}}", "encoder.stages.{}.layers.{{i}}".format, _CONVS | _SHORTCUT
    ),
)


def _read(tower: Json, _: Json) -> dict[str, Any]:
    depths = tuple(tower.get("depths", (3, 4, 6, 3)))
    found = tuple(tower.get("hidden_sizes", (256, 512, 1024, 2048)))
    first = tower.get("embedding_size", 64) * EXPANSION.get(tower.get("layer_type", "bottleneck"), 1)
    expected = tuple(first * 2**stage for stage in range(len(depths)))
    if found != expected:
        raise ValueError(f"hidden_sizes: got {list(found)}, expected {list(expected)}, each twice the one before")
    return {"depths": depths}


def _write(config: ResNetConfig) -> dict[str, Any]:
    return {"depths": list(config.depths), "hidden_sizes": list(config.dims)}


_CLASSIFIER = Architecture(
    name="ResNetForImageClassification",
    model_type="resnet",
    family=ResNetConfig,
    settings=(
        Setting("image_size", "image_size", 224),
        Setting("num_channels", "in_chans", 3),
        Setting("embedding_size", "width", 64),
        Setting("layer_type", "block", "bottleneck", {kind: kind for kind in EXPANSION}),
    ),
    # PyTorch's default: its code says none.
    fixed=dict(norm_eps=1e-5),
    expected=dict(hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False),
    read=_read,
    write=_write,
    infer=resnet_shapes.infer,
    table=_TABLE,
    head=(Entry("fc", "classifier.1"),),
    base="resnet.",
    prefixed=True,
    labels=True,
)

ARCHITECTURES = (
    _CLASSIFIER,
    replace(_CLASSIFIER, name="ResNetModel", prefixed=False, head=(), labels=False),
)
