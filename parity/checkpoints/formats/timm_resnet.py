"""timm's constructor arguments of its ResNets, and the files of torchvision's, which have the same names.

Source: the constructor of timm's `ResNet`; torchvision `models/resnet.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, close_match, get, replace
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.resnet import ResNetConfig
from ..accounting import CheckpointError
from ..assumed import Given
from ..shapes import Shape
from .foreign import depth_of, expect_family, made, shape_of
from .settled import images_of

FAMILY = ResNetConfig
CLASSIFIER = "fc"
# Whether a model takes images of one size alone.
FIXED_SIZE = False

# What changes no output, and what isn't another model at this value.
_WITHOUT_EFFECT = ("drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "device", "dtype")
_ONLY = {"global_pool": "avg", "output_stride": 32, "stem_type": "", "avg_down": False, "cardinality": 1}
_KNOWN = ("in_chans", "num_classes", "layers", "channels")
# What timm evaluates most of them with; torchvision's second weights are resized to 232 and cropped to 224.
_IMAGES = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=0.95)


def is_kind(names: Mapping[str, Any]) -> bool:
    """Whether canonical names are those of a ResNet."""
    return "layer1.0.conv1.weight" in names


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
    """The config of a file of tensors alone, which shows all of it but numerics, image size and preprocessing.

    Raises:
        CheckpointError: Shapes that make no model, or a contradiction.
    """
    expect_family(given, ResNetConfig, path=path, what="a ResNet")

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    stages = range(1, depth_of(shapes, r"layer(\d+)\.") + 1)
    channels = size("conv1.weight", 4)[1]
    classes = size("fc.weight", 2)[0] if "fc.weight" in shapes else 0
    why = "nothing in the model depends on it, and 224 is usual"
    eps = "PyTorch's default, as of every published one"
    fields: dict[str, Any] = dict(
        in_chans=channels,
        num_classes=given.settle("num_classes", shown=classes, path=path),
        block="bottleneck" if "layer1.0.conv3.weight" in shapes else "basic",
        depths=tuple(depth_of(shapes, rf"layer{stage}\.(\d+)\.") for stage in stages),
        width=size("conv1.weight", 4)[0],
        norm_eps=given.settle("norm_eps", usual=1e-5, why=eps, path=path),
        image_size=given.settle("image_size", usual=(224, 224), why=why, path=path),
        preprocessing=images_of(given, channels, usual=_IMAGES, why="that of most of timm's ResNets"),
    )
    return made(path, ResNetConfig, fields)


def config_of(data: Mapping[str, Any], architecture: str) -> ResNetConfig:
    """Our config of timm's `config.json`, but for its preprocessing.

    Args:
        data: Its object.
        architecture: A name of timm's.

    Raises:
        ValueError: An argument that isn't known, or a value that can't be had here.
    """
    config = ResNetConfig.of(get(architecture))
    arguments = dict(data.get("model_args") or {})
    fields: dict[str, Any] = {name: arguments[name] for name in ("in_chans", "num_classes") if name in arguments}
    for key, value in arguments.items():
        if key in _ONLY and value != _ONLY[key]:
            raise ValueError(f"model_args.{key}: got {value!r}, expected {_ONLY[key]!r}")
        if key not in (*_ONLY, *_KNOWN, *_WITHOUT_EFFECT):
            known = (*_KNOWN, *_ONLY)
            raise ValueError(
                f"model_args.{key}: not supported{close_match(key, known)}; expected some of {', '.join(known)}"
            )
    if "layers" in arguments:
        fields["depths"] = tuple(arguments["layers"])
    if "channels" in arguments:
        widths = list(arguments["channels"])
        expected = [widths[0] * 2**stage for stage in range(len(widths))]
        if widths != expected:
            raise ValueError(f"model_args.channels: got {widths}, expected {expected}, each twice the one before")
        fields["width"] = widths[0]
    if (classes := data.get("num_classes")) is not None:
        fields["num_classes"] = classes
    size = (data.get("pretrained_cfg") or {}).get("input_size")
    if size is not None:
        fields["image_size"] = tuple(size[1:])
    return replace(config, **fields)


def expressed(path: Path, config: ResNetConfig, name: str) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and the arguments that make it this config.

    Raises:
        CheckpointError: timm has no arguments for it.
    """
    if config.norm_eps != 1e-5 or config.width != 64:
        field, expected = ("norm_eps", 1e-5) if config.norm_eps != 1e-5 else ("width", 64)  # of the stem, in every one
        raise CheckpointError(
            f"{path}: timm has no arguments for this config: {field} is {getattr(config, field)!r}, not {expected!r}"
        )
    same = [one for one in architectures() if ResNetConfig.of(get(one)).block == config.block]
    named = next((one for one in (name, *same) if one in same and get(one).depths == config.depths), same[0])  # type: ignore[attr-defined]
    registered = ResNetConfig.of(get(named))
    arguments: dict[str, Any] = {} if config.in_chans == 3 else {"in_chans": config.in_chans}
    if config.depths != registered.depths:
        arguments |= dict(layers=config.depths, channels=config.inner_dims)
    return named, arguments
