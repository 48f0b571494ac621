"""Swin and Swin V2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....configs.swin import SwinConfig
from ..swin_names import UNUSED, mlp_ratio, transformers
from ..swin_shapes import infer
from ..translate import Entry, Unused
from .architecture import ACTIVATIONS, Architecture, Json, Setting

_SETTINGS = (
    Setting("embed_dim", "embed_dim", 96),
    Setting("hidden_act", "act", "gelu", {**ACTIVATIONS, "relu": "relu"}),
    Setting("layer_norm_eps", "norm_eps", 1e-5),
    Setting("image_size", "image_size", 224),
    Setting("patch_size", "patch_size", 4),
    Setting("num_channels", "in_chans", 3),
    Setting("hidden_dropout_prob", "drop_rate", 0.0),
    Setting("attention_probs_dropout_prob", "attn_drop_rate", 0.0),
    Setting("drop_path_rate", "drop_path_rate", 0.1),
)


def _read(tower: Json, _: Json) -> dict[str, Any]:
    depths = tuple(tower.get("depths", (2, 2, 6, 2)))
    return {
        "depths": depths,
        "num_heads": tuple(tower.get("num_heads", (3, 6, 12, 24))),
        "mlp_dim": int(tower.get("embed_dim", 96) * tower.get("mlp_ratio", 4.0)),
        "window_sizes": (tower.get("window_size", 7),) * len(depths),
    }


def _read_second(tower: Json, data: Json) -> dict[str, Any]:
    trained = tuple(tower.get("pretrained_window_sizes", ()))
    return _read(tower, data) | {"trained_windows": trained if any(trained) else ()}


def _write(config: SwinConfig) -> dict[str, Any]:
    return {
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "mlp_ratio": mlp_ratio(config),
        "window_size": config.window_sizes[0],
        "hidden_size": config.dims[-1],
    }


def _write_second(config: SwinConfig) -> dict[str, Any]:
    return _write(config) | {"pretrained_window_sizes": list(config.trained_windows or (0,) * config.num_stages)}


_SWIN = Architecture(
    name="SwinForImageClassification",
    model_type="swin",
    family=SwinConfig,
    settings=_SETTINGS,
    fixed=dict(version=1, window_fit="shrink_both", shift_mask=-100.0),
    expected={"qkv_bias": True, "use_absolute_embeddings": False},
    read=_read,
    write=_write,
    infer=infer,
    table=transformers(),
    memory=transformers(in_memory=True),
    head=(Entry("head.fc", "classifier"),),
    base="swin.",
    prefixed=True,
    labels=True,
    unused=UNUSED,
)
_SECOND = replace(
    _SWIN,
    name="Swinv2ForImageClassification",
    model_type="swinv2",
    fixed=dict(version=2, window_fit="shrink_height", shift_mask=-200.0),
    read=_read_second,
    write=_write_second,
    memory=(),
    base="swinv2.",
)
_MODEL: dict[str, Any] = dict(head=(), labels=False)
_PIXELS = (*UNUSED, Unused(r"decoder\..*", "predicts the pixels of pre-training"))

ARCHITECTURES = (
    _SWIN,
    replace(_SWIN, name="SwinModel", prefixed=False, **_MODEL),
    replace(_SWIN, name="SwinForMaskedImageModeling", unused=_PIXELS, written="never", **_MODEL),
    _SECOND,
    replace(_SECOND, name="Swinv2Model", prefixed=False, **_MODEL),
    replace(_SECOND, name="Swinv2ForMaskedImageModeling", unused=_PIXELS, written="never", **_MODEL),
)
