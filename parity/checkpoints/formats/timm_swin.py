"""timm's constructor arguments of its Swin Transformers: to a config and back.

Source: the constructors of timm's `SwinTransformer` and `SwinTransformerV2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, get, name_of, replace
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.swin import SwinConfig
from ..assumed import Given
from ..shapes import Shape
from . import swin_shapes
from .swin_names import mlp_ratio
from .timm_constructors import changed, check_same, fields_of

FAMILY = SwinConfig
CLASSIFIER = "head.fc"
# Whether a model takes images of one size alone.
FIXED_SIZE = True
is_kind = swin_shapes.is_swin

# timm's arguments whose values are ours under another name.
_ARGUMENTS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "in_chans": "in_chans",
    "num_classes": "num_classes",
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "pretrained_window_sizes": "trained_windows",
    "proj_drop_rate": "drop_rate",
    "attn_drop_rate": "attn_drop_rate",
    "drop_path_rate": "drop_path_rate",
}
# What changes no output of images of the model's own size, and what isn't another model at this value.
_WITHOUT_EFFECT = ("drop_rate", "weight_init", "strict_img_size", "dynamic_img_size", "device", "dtype")
# What timm evaluates nearly all of them with.
_IMAGES = (
    Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=0.9),
    "that of most of timm's Swins",
)
_OTHERS = ("mlp_ratio", "window_size", "act_layer")
_ONLY = {"global_pool": "avg", "always_partition": False, "qkv_bias": True, "head_dim": None, "norm_layer": None}


def infer(shapes: Mapping[str, Shape], given: Given, path: Path) -> SwinConfig:
    """The config of a file of tensors alone; errors as of `swin_shapes.infer`."""
    known = {} if given.model is not None else {"rel_pos_resize": "geometric"}
    return swin_shapes.infer(shapes, given, path=path, known=known, usual=lambda _: _IMAGES)


def width(config: SwinConfig) -> int:
    """The width of the features."""
    return config.dims[-1]


def architectures() -> list[str]:
    """Registered models, which are all timm's."""
    return sorted(SwinConfig.registered)


def our_names(names: Mapping[str, str]) -> dict[str, str]:
    """The file's names by canonical ones.

    Args:
        names: The same by names that have a linear layer under the head as the head's own, and of timm 0.8 and before
            mergings at the end of a stage.
    """
    is_old = any(name.startswith("layers.0.downsample.") for name in names)
    found = {re.sub(r"^head\.(?=\w+$)", "head.fc.", name): their for name, their in names.items()}
    return {_moved(name) if is_old else name: their for name, their in found.items()}


def _moved(name: str) -> str:
    return re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)


def config_of(data: Mapping[str, Any], architecture: str) -> SwinConfig:
    """Our config of timm's `config.json`, but for its images.

    Args:
        data: Its object.
        architecture: A name of timm's.

    Raises:
        ValueError: An argument that isn't known, or a value that can't be had here.
    """
    config = SwinConfig.of(get(architecture))
    arguments = data.get("model_args") or {}
    fields = fields_of(data, named=_ARGUMENTS, only=_ONLY, others=_OTHERS, without_effect=_WITHOUT_EFFECT)
    if not any(fields.get("trained_windows", (1,))):
        fields["trained_windows"] = ()
    fields["act"] = arguments.get("act_layer") or config.act
    dim, ratio = (
        fields.get("embed_dim", config.embed_dim),
        arguments.get("mlp_ratio", config.mlp_dim / config.embed_dim),
    )
    fields["mlp_dim"] = int(dim * ratio)
    stages = len(fields.get("depths", config.depths))
    if "window_size" in arguments:
        fields["window_sizes"] = _windows(arguments["window_size"], stages)
    return replace(config, **fields)


def _windows(value: Any, stages: int) -> tuple[int, ...]:
    """The side of each stage's windows: timm takes one side, a pair of them, or either for each stage."""
    is_pair = isinstance(value, list) and len(value) == 2 and not isinstance(value[0], list)
    each = [value] * stages if isinstance(value, int) or is_pair else list(value)
    sides = [side if isinstance(side, int) else side[0] for side in each]
    if any(isinstance(side, list) and len(set(side)) > 1 for side in each):
        raise ValueError(f"model_args.window_size: got {value!r}, expected squares")
    return tuple(sides)


def expressed(path: Path, config: SwinConfig, name: str) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and the arguments that make it this config.

    Raises:
        CheckpointError: timm has no arguments for it.
    """
    first = "swinv2_tiny_window8_256" if config.version == 2 else "swin_tiny_patch4_window7_224"
    named = next((one for one in (name, name_of(config)) if one in SwinConfig.registered), first)
    registered = SwinConfig.of(get(named))
    named = named if registered.version == config.version else first
    registered = SwinConfig.of(get(named))
    check_same(
        path, config, registered, ("window_fit", "shift_mask", "norm_eps", *(("act",) if config.version == 1 else ()))
    )
    arguments = changed(config, registered, _ARGUMENTS)
    if "pretrained_window_sizes" in arguments and not config.trained_windows:
        arguments["pretrained_window_sizes"] = (0,) * config.num_stages
    if config.window_sizes != registered.window_sizes:
        # Pairs, for two numbers would be the height and width of one window.
        arguments["window_size"] = [[side, side] for side in config.window_sizes]
    if config.act != registered.act:
        arguments["act_layer"] = config.act
    if config.mlp_dim * registered.embed_dim != registered.mlp_dim * config.embed_dim:
        arguments["mlp_ratio"] = mlp_ratio(config)
    return named, arguments
