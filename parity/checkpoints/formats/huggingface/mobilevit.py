"""MobileViT and MobileViTV2, whose stages are always five, three of them with transformer blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....configs.mobilevit import MobileVitConfig, rounded
from .. import mobilevit_names, mobilevit_shapes
from ..translate import Entry, Unused
from .architecture import ACTIVATIONS, Architecture, Json, Setting

_SETTINGS = (
    Setting("hidden_act", "act", "silu", {"silu": "silu", "swish": "silu", **ACTIVATIONS, "relu": "relu"}),
    Setting("layer_norm_eps", "transformer_norm_eps", 1e-5),
    Setting("image_size", "image_size", 256),
    Setting("patch_size", "patch_size", 2),
    Setting("num_channels", "in_chans", 3),
)
_SETTINGS_1 = (
    *_SETTINGS,
    Setting("expand_ratio", "expand_ratio", 4.0),
    Setting("num_attention_heads", "num_heads", 4),
    Setting("qkv_bias", "qkv_bias", True),
    Setting("hidden_dropout_prob", "drop_rate", 0.1),
    Setting("attention_probs_dropout_prob", "attn_drop_rate", 0.0),
)
_SETTINGS_2 = (
    *_SETTINGS,
    Setting("expand_ratio", "expand_ratio", 2.0),
    Setting("ffn_dropout", "drop_rate", 0.0),
    Setting("attn_dropout", "attn_drop_rate", 0.0),
)
# Other strides are those of segmentation, with convolutions that leave places out.
_EXPECTED = dict(conv_kernel_size=3, output_stride=32)
_DEPTHS_1, _DEPTHS_2 = (1, 3, 1, 1, 1), (1, 2, 1, 1, 1)
_BLOCKS = (2, 4, 3)
_NECK, _HIDDEN = (16, 32, 64, 96, 128, 160, 640), (144, 192, 240)
_HEAD = Entry("head.fc", "classifier")
# The widths that `width_multiplier` is of.
_WIDTHS, _UNITS = (64, 128, 256, 384, 512), (128, 192, 256)


def _list(tower: Json, name: str, usual: Sequence[int]) -> tuple[int, ...]:
    values = tuple(tower.get(name, usual))
    if len(values) != len(usual):
        raise ValueError(f"{name}: got {list(values)}, expected {len(usual)} numbers")
    return values


def _read_first(tower: Json, _: Json) -> dict[str, Any]:
    stem, *dims, out = _list(tower, "neck_hidden_sizes", _NECK)
    hidden = _list(tower, "hidden_sizes", _HIDDEN)
    inside = tuple(int(dim * tower.get("mlp_ratio", 2.0)) for dim in hidden)
    return dict(
        stem_dim=stem,
        dims=tuple(dims),
        out_dim=out,
        depths=_DEPTHS_1,
        transformer_dims=(0, 0, *hidden),
        transformer_depths=(0, 0, *_BLOCKS),
        mlp_dims=(0, 0, *inside),
    )


def _read_segmentation(tower: Json, data: Json) -> dict[str, Any]:
    return _read_first(tower, data) | {"out_dim": 0}


def _write_first(config: MobileVitConfig) -> dict[str, Any]:
    hidden = _three(config.transformer_dims)
    ratio = next((mlp / dim for mlp, dim in zip(config.mlp_dims, config.transformer_dims, strict=True) if dim), 2.0)
    return {
        "neck_hidden_sizes": [config.stem_dim, *_padded(config.dims, 5), config.out_dim],
        "hidden_sizes": hidden,
        "mlp_ratio": ratio,
    }


def _read_second(tower: Json, _: Json) -> dict[str, Any]:
    factor, times = tower.get("width_multiplier", 1.0), tower.get("ffn_multiplier", 2)
    # The first stage's is a multiple of 16.
    first = max(16, int(_WIDTHS[0] * factor + 8) // 16 * 16)
    first = first + 16 if first < 0.9 * _WIDTHS[0] * factor else first
    units = tuple(rounded(unit * factor) for unit in _list(tower, "base_attn_unit_dims", _UNITS))
    return dict(
        stem_dim=max(16, rounded(max(16, min(64, 32 * factor)))),
        dims=(first, *(rounded(width * factor) for width in _WIDTHS[1:])),
        depths=_DEPTHS_2,
        transformer_dims=(0, 0, *units),
        transformer_depths=(0, 0, *_list(tower, "n_attn_blocks", _BLOCKS)),
        mlp_dims=(0, 0, *(int(times * unit // 16 * 16) for unit in units)),
    )


def _write_second(config: MobileVitConfig) -> dict[str, Any]:
    factor = config.dims[-1] / _WIDTHS[-1]
    factor = int(factor) if factor == int(factor) else factor
    units = _three(config.transformer_dims)
    usual = [rounded(unit * factor) for unit in _UNITS] == units
    times = next((mlp // dim for mlp, dim in zip(config.mlp_dims, config.transformer_dims, strict=True) if dim), 2)
    return {
        "width_multiplier": factor,
        "base_attn_unit_dims": list(_UNITS) if usual else [round(unit / factor) for unit in units],
        "n_attn_blocks": _three(config.transformer_depths),
        "ffn_multiplier": times,
    }


def _three(values: Sequence[int]) -> list[int]:
    return _padded([value for value in values if value], 3)


def _padded(values: Sequence[int], count: int) -> list[int]:
    """As many as the class has: of another number what is read is another model, which then isn't written."""
    return [*values, *[values[-1] if values else 8] * count][:count]


_FIRST = Architecture(
    name="MobileViTForImageClassification",
    model_type="mobilevit",
    family=MobileVitConfig,
    settings=_SETTINGS_1,
    fixed=dict(version=1, norm_eps=1e-5, patch_fit="bilinear"),
    expected=_EXPECTED,
    read=_read_first,
    write=_write_first,
    infer=mobilevit_shapes.infer,
    table=mobilevit_names.mobilevit(),
    head=(_HEAD,),
    base="mobilevit.",
    prefixed=True,
    labels=True,
)
_SECOND = replace(
    _FIRST,
    name="MobileViTV2ForImageClassification",
    model_type="mobilevitv2",
    settings=_SETTINGS_2,
    # It leaves out what patches don't divide, where the authors make a map larger.
    fixed=dict(version=2, norm_eps=1e-5, patch_fit="zeros", num_heads=1, qkv_bias=True, out_dim=0),
    read=_read_second,
    write=_write_second,
    table=mobilevit_names.mobilevitv2(),
    base="mobilevitv2.",
)
_MODEL: dict[str, Any] = dict(head=(), labels=False)
_SEGMENTS: dict[str, Any] = dict(
    unused=(Unused(r"segmentation_head\..*", "makes segments of the maps"),), written="never", **_MODEL
)

ARCHITECTURES = (
    _FIRST,
    replace(_FIRST, name="MobileViTModel", prefixed=False, **_MODEL),
    replace(_FIRST, name="MobileViTForSemanticSegmentation", read=_read_segmentation, **_SEGMENTS),
    _SECOND,
    replace(_SECOND, name="MobileViTV2Model", prefixed=False, **_MODEL),
    replace(_SECOND, name="MobileViTV2ForSemanticSegmentation", **_SEGMENTS),
)
