"""timm's constructor arguments of its MobileViTs: to a config and back.

Source: the constructor of timm's `ByobNet`, and the arguments of its module `mobilevit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, get, name_of, replace
from ...configs.mobilevit import MobileVitConfig
from ..assumed import Given
from ..shapes import Shape
from . import mobilevit_names, mobilevit_shapes
from .timm_constructors import changed, check_same, fields_of, input_size

FAMILY = MobileVitConfig
CLASSIFIER = "head.fc"
# Whether a model takes images of one size alone.
FIXED_SIZE = False
is_kind = mobilevit_shapes.is_mobilevit

# timm's arguments whose values are ours under another name.
_ARGUMENTS = {
    "in_chans": "in_chans",
    "num_classes": "num_classes",
    "stem_chs": "stem_dim",
    "num_features": "out_dim",
    "act_layer": "act",
    "drop_path_rate": "drop_path_rate",
}
# What changes no output, and what isn't another model at this value.
_WITHOUT_EFFECT = ("drop_rate", "drop_block_rate", "drop_block_size", "zero_init_last", "img_size", "device", "dtype")
_ONLY = {"global_pool": "avg", "output_stride": 32, "width_factor": 1.0, "stem_type": "3x3", "stem_pool": ""}
# What is in a list of blocks that no argument can say.
_BLOCKS = (
    *("version", "dims", "depths", "expand_ratio", "transformer_dims", "transformer_depths", "mlp_dims"),
    *("num_heads", "qkv_bias", "patch_size"),
)
_NUMERICS = ("norm_eps", "transformer_norm_eps", "patch_fit")


def architectures() -> list[str]:
    """Registered models, which are all timm's."""
    return sorted(MobileVitConfig.registered)


def our_names(names: Mapping[str, str]) -> dict[str, str]:
    """The file's names by canonical ones; those of the authors' own files become canonical, too."""
    if "conv_1.block.conv.weight" in names:
        return mobilevit_names.original(names)
    # A linear layer under the head is found as the head's own.
    return {re.sub(r"^head\.(?=\w+$)", "head.fc.", name): their for name, their in names.items()}


def infer(shapes: Mapping[str, Shape], given: Given, path: Path) -> MobileVitConfig:
    """The config of a file of tensors alone; errors as of `mobilevit_shapes.infer`."""
    return mobilevit_shapes.infer(shapes, given, path=path, known={}, usual=_images)


def width(config: MobileVitConfig) -> int:
    """The width of the features."""
    return config.width


def config_of(data: Mapping[str, Any], architecture: str) -> MobileVitConfig:
    """Our config of timm's `config.json`, but for its preprocessing.

    Args:
        data: Its object.
        architecture: A name of timm's.

    Raises:
        ValueError: An argument that isn't known, or a value that can't be had here.
    """
    config = MobileVitConfig.of(get(architecture))
    fields = fields_of(data, named=_ARGUMENTS, only=_ONLY, others=(), without_effect=_WITHOUT_EFFECT)
    return replace(config, **fields, **input_size(data))


def expressed(path: Path, config: MobileVitConfig, name: str) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and the arguments that make it this config.

    Raises:
        CheckpointError: timm has no arguments for it.
    """
    registered = {one: MobileVitConfig.of(get(one)) for one in architectures()}
    same = [one for one, other in registered.items() if _blocks(other) == _blocks(config)]
    kin = [one for one, other in registered.items() if other.version == config.version]
    named = next(one for one in (name, name_of(config), *same, *kin) if one in registered)
    check_same(path, config, registered[named], _BLOCKS)
    check_same(path, config, registered[named], _NUMERICS)
    return named, changed(config, registered[named], _ARGUMENTS)


def _blocks(config: MobileVitConfig) -> list[Any]:
    return [getattr(config, field) for field in _BLOCKS]


def _images(config: MobileVitConfig) -> tuple[Preprocessing, str]:
    """What timm evaluates the models of a version with."""
    name = "mobilevit_s" if config.version == 1 else "mobilevitv2_100"
    return get(name).preprocessing, "that of timm"
