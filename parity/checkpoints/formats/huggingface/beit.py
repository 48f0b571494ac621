"""BEiT and Data2VecVision: relative positions, LayerScale, no bias of the key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....configs import VitConfig
from ..translate import Entry, Unused
from .architecture import Architecture, Json, Setting, blocks, settings
from .vit import CLASSIFIER, MASK_TOKEN
from .vit import IN_MEMORY as VIT_IN_MEMORY
from .vit import NAMES as VIT_NAMES

_TABLE = "relative_position_bias.relative_position_bias_table"

NAMES = (
    *blocks(
        "encoder.layer.{i}",
        {
            "attn.relative_position_bias_table": f"attention.attention.{_TABLE}",
            "ls1.gamma": "lambda_1",
            "ls2.gamma": "lambda_2",
        },
    ),
    Entry("rel_pos_bias.relative_position_bias_table", f"encoder.{_TABLE}"),
    Entry("fc_norm", "pooler.layernorm"),
    *VIT_NAMES,
)
IN_MEMORY = (
    *blocks(
        "layers.{i}",
        {
            "attn.relative_position_bias_table": _TABLE,
            "ls1.gamma": "lambda_1",
            "ls2.gamma": "lambda_2",
        },
    ),
    Entry("rel_pos_bias.relative_position_bias_table", "shared_position_bias.relative_position_bias_table"),
    *VIT_IN_MEMORY,
)
INDEX = Unused(r".*\.relative_position_index", "places in the tables, which follow from the size of the grid")


def _read(tower: Json, _: Json) -> dict[str, Any]:
    shared, block = tower.get("use_shared_relative_position_bias"), tower.get("use_relative_position_bias")
    if shared and block:
        raise ValueError("use_shared_relative_position_bias: got true, expected false with use_relative_position_bias")
    init = tower.get("layer_scale_init_value", 0.1)
    return {
        "pos_embed": "learned" if tower.get("use_absolute_position_embeddings") else "none",
        "rel_pos_bias": "shared" if shared else "block" if block else "none",
        "layer_scale_init": init if init > 0 else None,
    }


def _write(config: VitConfig) -> dict[str, Any]:
    return {
        "use_absolute_position_embeddings": config.pos_embed == "learned",
        "use_shared_relative_position_bias": config.rel_pos_bias == "shared",
        "use_relative_position_bias": config.rel_pos_bias == "block",
        "layer_scale_init_value": config.layer_scale_init or 0.0,
        "use_mask_token": config.mask_token,
    }


def _read_pooled(tower: Json, data: Json) -> dict[str, Any]:
    """Either the mean of the patches or all tokens are normalised."""
    mean = tower.get("use_mean_pooling", True)
    return _read(tower, data) | {"final_norm": not mean, "fc_norm": mean, "global_pool": "avg" if mean else "token"}


def _write_pooled(config: VitConfig) -> dict[str, Any]:
    return _write(config) | {"use_mean_pooling": config.fc_norm}


def _read_tokens(tower: Json, data: Json) -> dict[str, Any]:
    mean = tower.get("use_mean_pooling", True)
    return _read(tower, data) | {"final_norm": not mean, "global_pool": "none"}


def _write_tokens(config: VitConfig) -> dict[str, Any]:
    return _write(config) | {"use_mean_pooling": not config.final_norm}


_BEIT = Architecture(
    name="BeitForImageClassification",
    model_type="beit",
    settings=(*settings(qkv_bias=None), Setting("drop_path_rate", "drop_path_rate", 0.1)),
    fixed=dict(k_bias=False, pos_embed_resize="bicubic", rel_pos_resize="bilinear"),
    read=_read_pooled,
    write=_write_pooled,
    table=NAMES,
    memory=IN_MEMORY,
    head=CLASSIFIER,
    base="beit.",
    prefixed=True,
    labels=True,
    square=True,
    masks=True,
    unused=(MASK_TOKEN, INDEX),
)
_DATA2VEC = replace(
    _BEIT, name="Data2VecVisionForImageClassification", model_type="data2vec-vision", base="data2vec_vision."
)
_MODEL = dict(head=(), prefixed=False, labels=False)

ARCHITECTURES = (
    _BEIT,
    replace(_BEIT, name="BeitModel", **_MODEL),
    # With mean pooling its encoder has no norm at the end, and the one in front of the predictions takes its place.
    replace(
        _BEIT,
        name="BeitForMaskedImageModeling",
        fixed=dict(_BEIT.fixed) | dict(final_norm=True, global_pool="none"),
        expected={"use_mean_pooling": True},
        read=_read,
        write=_write,
        head=(Entry("norm", "layernorm"),),
        labels=False,
        unused=(MASK_TOKEN, INDEX, Unused(r"lm_head\..*", "predicts the visual words of pre-training")),
        written="never",
    ),
    replace(_DATA2VEC, written="back"),
    replace(
        _DATA2VEC,
        name="Data2VecVisionModel",
        read=_read_tokens,
        write=_write_tokens,
        unused=(MASK_TOKEN, INDEX, Unused(r"pooler\..*", "the class itself makes no pooler unless it is asked to")),
        **_MODEL,
    ),
)
