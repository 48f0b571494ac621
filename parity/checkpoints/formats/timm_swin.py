"""timm's constructor arguments of its Swin Transformers: to a config and back.

Source: the constructors of timm's `SwinTransformer` and `SwinTransformerV2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, close_match, get, name_of, replace
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.swin import SwinConfig
from ..accounting import CheckpointError
from ..assumed import Given
from ..shapes import Shape
from . import swin_shapes

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
    arguments = dict(data.get("model_args") or {})
    fields: dict[str, Any] = {}
    for key, value in arguments.items():
        value = tuple(value) if isinstance(value, list) else value
        if key in _ARGUMENTS:
            fields[_ARGUMENTS[key]] = value
        elif key in _ONLY:
            if value != _ONLY[key]:
                raise ValueError(f"model_args.{key}: got {value!r}, expected {_ONLY[key]!r}")
        elif key not in (*_WITHOUT_EFFECT, "mlp_ratio", "window_size", "act_layer"):
            known = (*_ARGUMENTS, *_ONLY, "mlp_ratio", "window_size", "act_layer")
            raise ValueError(
                f"model_args.{key}: not supported{close_match(key, known)}; expected some of {', '.join(known)}"
            )
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
    if (classes := data.get("num_classes")) is not None:
        fields["num_classes"] = classes
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
    problems = [
        f"{field} is {getattr(config, field)!r}, not {getattr(registered, field)!r}"
        for field in ("window_fit", "shift_mask", "norm_eps", *(("act",) if config.version == 1 else ()))
        if getattr(config, field) != getattr(registered, field)
    ]
    if problems:
        hint = "; --numerics timm takes its own"
        raise CheckpointError(f"{path}: timm has no arguments for this config: {', '.join(problems)}{hint}")
    arguments: dict[str, Any] = {
        theirs: getattr(config, ours)
        for theirs, ours in _ARGUMENTS.items()
        if ours != "num_classes" and getattr(config, ours) != getattr(registered, ours)
    }
    if "pretrained_window_sizes" in arguments and not config.trained_windows:
        arguments["pretrained_window_sizes"] = (0,) * config.num_stages
    if config.window_sizes != registered.window_sizes:
        # Pairs, for two numbers would be the height and width of one window.
        arguments["window_size"] = [[side, side] for side in config.window_sizes]
    if config.act != registered.act:
        arguments["act_layer"] = config.act
    if config.mlp_dim * registered.embed_dim != registered.mlp_dim * config.embed_dim:
        # Half a unit more in the last stage, so that timm's int(dim * ratio) can't round down in any.
        arguments["mlp_ratio"] = (config.mlp_dim + 0.5**config.num_stages) / config.embed_dim
    return named, arguments
