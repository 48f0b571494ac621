"""timm's constructor arguments of its ResNets, and the files of torchvision's, which have the same names.

Source: the constructor of timm's `ResNet`; torchvision `models/resnet.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, get, name_of, replace
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.resnet import ResNetConfig
from ..assumed import Given
from ..shapes import Shape
from . import resnet_shapes
from .timm_constructors import changed, check_same, fields_of, input_size

FAMILY = ResNetConfig
CLASSIFIER = "fc"
# Whether a model takes images of one size alone.
FIXED_SIZE = False
is_kind = resnet_shapes.is_resnet

# What changes no output, and what isn't another model at this value.
_WITHOUT_EFFECT = ("drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "device", "dtype")
_ONLY = {"global_pool": "avg", "output_stride": 32, "stem_type": "", "avg_down": False, "cardinality": 1}
_ARGUMENTS = {"in_chans": "in_chans", "num_classes": "num_classes", "layers": "depths"}
# What timm evaluates most of them with; torchvision's second weights are resized to 232 and cropped to 224.
_IMAGES = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=0.95)


def architectures() -> list[str]:
    """Registered models, which are all timm's."""
    return sorted(ResNetConfig.registered)


def our_names(names: Mapping[str, str]) -> dict[str, str]:
    """The file's names by canonical ones, where one linear layer was found under another name than the head's."""
    return {re.sub(r"^head\.(?=\w+$)", "fc.", name): their for name, their in names.items()}


def width(config: ResNetConfig) -> int:
    """The width of the features."""
    return config.dims[-1]


def infer(shapes: Mapping[str, Shape], given: Given, path: Path) -> ResNetConfig:
    """The config of a file of tensors alone; errors as of `resnet_shapes.infer`."""
    why = "that of most of timm's ResNets"
    return resnet_shapes.infer(shapes, given, path=path, known={}, usual=lambda _: (_IMAGES, why))


def config_of(data: Mapping[str, Any], architecture: str) -> ResNetConfig:
    """Our config of timm's `config.json`, but for its preprocessing.

    Args:
        data: Its object.
        architecture: A name of timm's.

    Raises:
        ValueError: An argument that isn't known, or a value that can't be had here.
    """
    config = ResNetConfig.of(get(architecture))
    fields = fields_of(data, named=_ARGUMENTS, only=_ONLY, others=("channels",), without_effect=_WITHOUT_EFFECT)
    arguments = data.get("model_args") or {}
    if "channels" in arguments:
        widths = list(arguments["channels"])
        expected = [widths[0] * 2**stage for stage in range(len(widths))]
        if widths != expected:
            raise ValueError(f"model_args.channels: got {widths}, expected {expected}, each twice the one before")
        fields["width"] = widths[0]
    return replace(config, **fields, **input_size(data))


def expressed(path: Path, config: ResNetConfig, name: str) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and the arguments that make it this config.

    Raises:
        CheckpointError: timm has no arguments for it.
    """
    same = [one for one in map(ResNetConfig.of, map(get, architectures())) if one.block == config.block]
    registered = next((one for one in same if one.depths == config.depths), same[0])
    # All of them have the same stem.
    check_same(path, config, registered, ("norm_eps", "width"))
    arguments = changed(config, registered, {"in_chans": "in_chans"})
    if config.depths != registered.depths:
        arguments |= dict(layers=config.depths, channels=config.inner_dims)
    return name_of(registered), arguments
