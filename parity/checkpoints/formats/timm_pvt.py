"""timm's constructor arguments of its Pyramid Vision Transformers: to a config and back.

Source: the constructor of timm's `PyramidVisionTransformerV2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import Preprocessing, get, name_of, replace
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.pvt import PvtConfig
from ..assumed import Given
from ..shapes import Shape
from . import pvt_names, pvt_shapes
from .timm_constructors import changed, check_same, fields_of, input_size

FAMILY = PvtConfig
CLASSIFIER = "head"
# Whether a model takes images of one size alone.
FIXED_SIZE = False
is_kind = pvt_shapes.is_pvt

# timm's arguments whose values are ours under another name.
_ARGUMENTS = {
    "in_chans": "in_chans",
    "num_classes": "num_classes",
    "embed_dims": "embed_dims",
    "depths": "depths",
    "num_heads": "num_heads",
    "sr_ratios": "sr_ratios",
    "linear": "linear",
    "qkv_bias": "qkv_bias",
    "proj_drop_rate": "drop_rate",
    "attn_drop_rate": "attn_drop_rate",
    "drop_path_rate": "drop_path_rate",
}
# What changes no output, and what isn't another model at this value.
_WITHOUT_EFFECT = ("drop_rate", "device", "dtype")
_ONLY = {"global_pool": "avg", "norm_layer": None}
# What timm evaluates all of them with.
_IMAGES = (
    Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=0.9),
    "that of timm's and the authors'",
)


def architectures() -> list[str]:
    """Registered models, which are all timm's."""
    return sorted(PvtConfig.registered)


def our_names(names: Mapping[str, str]) -> dict[str, str]:
    """The file's names by canonical ones; those of the authors' own files become canonical, too."""
    return pvt_names.original(names) if "patch_embed1.proj.weight" in names else dict(names)


def infer(shapes: Mapping[str, Shape], given: Given, path: Path) -> PvtConfig:
    """The config of a file of tensors alone; errors as of `pvt_shapes.infer`."""
    return pvt_shapes.infer(shapes, given, path=path, known={}, usual=lambda _: _IMAGES)


def width(config: PvtConfig) -> int:
    """The width of the features."""
    return config.embed_dims[-1]


def config_of(data: Mapping[str, Any], architecture: str) -> PvtConfig:
    """Our config of timm's `config.json`, but for its preprocessing.

    Args:
        data: Its object.
        architecture: A name of timm's.

    Raises:
        ValueError: An argument that isn't known, or a value that can't be had here.
    """
    config = PvtConfig.of(get(architecture))
    fields = fields_of(data, named=_ARGUMENTS, only=_ONLY, others=("mlp_ratios",), without_effect=_WITHOUT_EFFECT)
    dims = fields.get("embed_dims", config.embed_dims)
    for field in ("num_heads", "sr_ratios"):
        if isinstance(fields.get(field), int):
            fields[field] = (fields[field],) * len(dims)
    ratios = [hidden / dim for hidden, dim in zip(config.mlp_dims, config.embed_dims, strict=True)]
    ratios = (data.get("model_args") or {}).get("mlp_ratios", ratios)
    ratios = ratios if isinstance(ratios, list | tuple) else [ratios] * len(dims)
    fields["mlp_dims"] = tuple(int(dim * ratio) for dim, ratio in zip(dims, ratios, strict=True))
    return replace(config, **fields, **input_size(data))


def expressed(path: Path, config: PvtConfig, name: str) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and the arguments that make it this config.

    Raises:
        CheckpointError: timm has no arguments for it.
    """
    named = next((one for one in (name, name_of(config)) if one in PvtConfig.registered), "pvt_v2_b2")
    registered = PvtConfig.of(get(named))
    check_same(path, config, registered, config.numerics)
    arguments = changed(config, registered, _ARGUMENTS)
    widths = (config.embed_dims, config.mlp_dims)
    if widths != (registered.embed_dims, registered.mlp_dims):
        # Half a unit more where it isn't whole, so that timm's int(dim * ratio) can't round down.
        arguments["mlp_ratios"] = [
            hidden // dim if hidden % dim == 0 else (hidden + 0.5) / dim for dim, hidden in zip(*widths, strict=True)
        ]
    return named, arguments
