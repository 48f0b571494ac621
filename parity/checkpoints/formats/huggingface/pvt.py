"""PVT v2, and SegFormer's encoder, which is the same network with other norms."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ....configs.pvt import PvtConfig
from .. import pvt_names, pvt_shapes
from ..translate import Entry, Unused
from .architecture import ACTIVATIONS, Architecture, Json, Setting

_SETTINGS = (
    Setting("hidden_act", "act", "gelu", {**ACTIVATIONS, "relu": "relu"}),
    Setting("layer_norm_eps", "norm_eps", 1e-6),
    Setting("image_size", "image_size", 224),
    Setting("num_channels", "in_chans", 3),
    Setting("hidden_dropout_prob", "drop_rate", 0.0),
    Setting("attention_probs_dropout_prob", "attn_drop_rate", 0.0),
    Setting("drop_path_rate", "drop_path_rate", 0.0),
)
# Of four stages; with another number of them the lists are there.
_LISTS = {
    "hidden_sizes": ("embed_dims", (32, 64, 160, 256)),
    "depths": ("depths", (2, 2, 2, 2)),
    "num_attention_heads": ("num_heads", (1, 2, 5, 8)),
    "sr_ratios": ("sr_ratios", (8, 4, 2, 1)),
}


def _read(tower: Json, _: Json, *, ratios: tuple[int, ...] = (8, 8, 4, 4)) -> dict[str, Any]:
    found = {ours: tuple(tower.get(theirs, usual)) for theirs, (ours, usual) in _LISTS.items()}
    sizes = zip(found["embed_dims"], tower.get("mlp_ratios", ratios), strict=True)
    strides = [(7, 4), *[(3, 2)] * (len(found["depths"]) - 1)]
    for name, expected in zip(("patch_sizes", "strides"), zip(*strides, strict=True), strict=True):
        if tuple(tower.get(name, expected)) != expected:
            raise ValueError(f"{name}: got {list(tower[name])}, expected {list(expected)}")
    return found | {"mlp_dims": tuple(int(dim * ratio) for dim, ratio in sizes)}


def _read_pvt(tower: Json, data: Json) -> dict[str, Any]:
    options = dict(linear=tower.get("linear_attention", False), qkv_bias=tower.get("qkv_bias", True))
    return _read(tower, data) | options | {"embed_norm_eps": tower.get("layer_norm_eps", 1e-6)}


def _write(config: PvtConfig) -> dict[str, Any]:
    found: dict[str, Any] = {theirs: list(getattr(config, ours)) for theirs, (ours, _) in _LISTS.items()}
    # Whole numbers alone: of another width what is read is another model, which then isn't written.
    ratios = [hidden // dim for dim, hidden in zip(config.embed_dims, config.mlp_dims, strict=True)]
    others = config.num_stages - 1
    strides = {"patch_sizes": [7, *[3] * others], "strides": [4, *[2] * others]}
    return found | {"mlp_ratios": ratios, "num_encoder_blocks": config.num_stages} | strides


def _write_pvt(config: PvtConfig) -> dict[str, Any]:
    return _write(config) | {"linear_attention": config.linear, "qkv_bias": config.qkv_bias}


_PVT = Architecture(
    name="PvtV2ForImageClassification",
    model_type="pvt_v2",
    family=PvtConfig,
    settings=_SETTINGS,
    read=_read_pvt,
    write=_write_pvt,
    infer=pvt_shapes.infer,
    code=dict(norm_eps=1e-6, embed_norm_eps=1e-6),
    table=pvt_names.pvt(),
    head=(Entry("head", "classifier"),),
    base="pvt_v2.",
    prefixed=True,
    labels=True,
)
_SEGFORMER = replace(
    _PVT,
    name="SegformerForImageClassification",
    model_type="segformer",
    settings=tuple(
        replace(setting, default=0.1) if setting.theirs == "drop_path_rate" else setting
        for setting in _SETTINGS
        if setting.theirs != "layer_norm_eps"
    ),
    # Its code doesn't ask for `layer_norm_eps`.
    fixed=dict(embed_norm_eps=1e-5, norm_eps=1e-5),
    code={},
    read=partial(_read, ratios=(4, 4, 4, 4)),
    write=_write,
    table=pvt_names.segformer(),
    memory=pvt_names.segformer(in_memory=True),
    base="segformer.",
)
_MODEL: dict[str, Any] = dict(head=(), labels=False)

ARCHITECTURES = (
    _PVT,
    replace(_PVT, name="PvtV2Model", prefixed=False, **_MODEL),
    _SEGFORMER,
    replace(_SEGFORMER, name="SegformerModel", prefixed=False, **_MODEL),
    replace(
        _SEGFORMER,
        name="SegformerForSemanticSegmentation",
        unused=(Unused(r"decode_head\..*", "makes segments of the maps"),),
        written="never",
        **_MODEL,
    ),
)
