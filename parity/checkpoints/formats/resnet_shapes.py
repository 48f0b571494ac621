"""The config of a ResNet whose file says none, from canonical names and shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, replace
from ...configs.resnet import ResNetConfig
from ..assumed import Given
from ..shapes import Shape
from .foreign import depth_of, expect_family, made, shape_of
from .settled import ANY_PREPROCESSING, images_of


def is_resnet(names: Mapping[str, Any]) -> bool:
    """Whether canonical names are those of a ResNet."""
    return "layer1.0.conv1.weight" in names


def infer(
    shapes: Mapping[str, Shape],
    given: Given,
    *,
    path: Path,
    known: Mapping[str, Any],
    usual: Callable[[ResNetConfig], tuple[Preprocessing, str]],
) -> ResNetConfig:
    """The config of a file, which shows all of it but numerics, image size and preprocessing.

    Args:
        shapes: The shapes by canonical name.
        given: What the user says; collects what is assumed.
        path: The path of the file, for errors.
        known: Fields that the format says, before the named model and after the user's own word.
        usual: The preprocessing to assume of a config, and why.

    Raises:
        CheckpointError: Shapes that make no model, or a contradiction.
    """
    expect_family(given, ResNetConfig, path=path, what="a ResNet")
    settle = functools.partial(given.settle_beside, known, path=path)

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    stages = range(1, depth_of(shapes, r"layer(\d+)\.") + 1)
    classes = size("fc.weight", 2)[0] if "fc.weight" in shapes else 0
    fields: dict[str, Any] = dict(
        in_chans=size("conv1.weight", 4)[1],
        num_classes=given.settle("num_classes", shown=classes, path=path),
        block="bottleneck" if "layer1.0.conv3.weight" in shapes else "basic",
        depths=tuple(depth_of(shapes, rf"layer{stage}\.(\d+)\.") for stage in stages),
        width=size("conv1.weight", 4)[0],
        norm_eps=settle("norm_eps", usual=1e-5, why="PyTorch's default, as of every published one"),
        image_size=settle("image_size", usual=(224, 224), why="nothing in the model depends on it, and 224 is usual"),
        preprocessing=ANY_PREPROCESSING,
    )
    config = made(path, ResNetConfig, fields)
    images, why = usual(config)
    images = images_of(given, config.in_chans, known=known.get("preprocessing"), usual=images, why=why)
    return made(path, functools.partial(replace, config), {"preprocessing": images})
