"""ViT, DeiT, ViTMAE, ViTMSN and I-JEPA, which share names of tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....configs import VitConfig
from ..translate import Entry, Unused
from .architecture import Architecture, Json, attention, blocks, settings

NAMES = (
    Entry("cls_token", "embeddings.cls_token"),
    Entry("dist_token", "embeddings.distillation_token"),
    Entry("mask_token", "embeddings.mask_token"),
    Entry("pos_embed", "embeddings.position_embeddings"),
    Entry("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *blocks(
        "encoder.layer.{i}",
        {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }
        | attention(
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
        ),
    ),
    Entry("norm", "layernorm"),
    Entry("pre_logits.fc", "pooler.dense"),
)
ATTENTION_IN_MEMORY = attention("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
IN_MEMORY = blocks(
    "layers.{i}",
    {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    | ATTENTION_IN_MEMORY,
)
CLASSIFIER = (Entry("head", "classifier"),)

MASK_TOKEN = Unused(
    r"embeddings\.mask_token",
    "stands for patches that are left out in pre-training; --set mask_token=true (mask_token=True) keeps it",
)
DECODER = Unused(r"decoder\..*", "the decoder of pre-training; the model here is the encoder")

TOKENS = dict(global_pool="none")
POOLER = dict(expected={"pooler_act": "tanh"}, fits=lambda _, names: "pooler.dense.weight" in names)


def _read_pooler(tower: Json, _: Json) -> dict[str, Any]:
    return {"pre_logits_dim": tower.get("pooler_output_size") or tower.get("hidden_size", 768)}


def _write_pooler(config: VitConfig) -> dict[str, Any]:
    return {"pooler_output_size": config.pre_logits_dim}


_VIT = Architecture(
    name="ViTForImageClassification",
    model_type="vit",
    settings=settings(),
    fixed=dict(pos_embed_resize="bicubic"),
    table=NAMES,
    memory=IN_MEMORY,
    head=CLASSIFIER,
    base="vit.",
    prefixed=True,
    labels=True,
    unused=(MASK_TOKEN,),
)


def _model(of: Architecture, name: str, **changes: Any) -> Architecture:
    """The class that has nothing besides the encoder; its names have no prefix."""
    return replace(of, name=name, head=(), prefixed=False, labels=False, **changes)


def _fixed(of: Architecture, **fields: Any) -> dict[str, Any]:
    return dict(of.fixed) | fields


def _masked(of: Architecture, name: str) -> Architecture:
    """Pre-training: an encoder, whose tokens aren't pooled, and a decoder."""
    fixed = _fixed(of, **TOKENS)
    return replace(of, name=name, fixed=fixed, head=(), labels=False, unused=(MASK_TOKEN, DECODER), written="never")


# Without a second head, DeiT's distillation token is a register token.
_DEIT = replace(
    _VIT,
    name="DeiTForImageClassification",
    model_type="deit",
    fixed=_fixed(_VIT, reg_tokens=1),
    table=(Entry("reg_token", "embeddings.distillation_token"), *NAMES),
    base="deit.",
)
_DISTILLED = _fixed(_VIT, dist_token=True)
_MSN = replace(
    _VIT,
    name="ViTMSNForImageClassification",
    model_type="vit_msn",
    settings=settings(layer_norm_eps=1e-6),
    written="back",
)
_MAE = replace(_VIT, model_type="vit_mae", fixed=_fixed(_VIT, **TOKENS), head=(), labels=False)
_IJEPA = replace(
    _VIT,
    name="IJepaForImageClassification",
    model_type="ijepa",
    fixed=_fixed(_VIT, class_token=False, global_pool="avg"),
    base="ijepa.",
)

ARCHITECTURES = (
    _VIT,
    _model(_VIT, "ViTModel", read=_read_pooler, write=_write_pooler, **POOLER),
    # `add_pooling_layer=False`, with which it must be loaded to be complete.
    _model(_VIT, "ViTModel", fixed=_fixed(_VIT, **TOKENS), written="own"),
    _masked(_VIT, "ViTForMaskedImageModeling"),
    _DEIT,
    replace(
        _DEIT,
        name="DeiTForImageClassificationWithTeacher",
        fixed=_DISTILLED,
        head=(Entry("head", "cls_classifier"), Entry("head_dist", "distillation_classifier")),
    ),
    _model(_DEIT, "DeiTModel", fixed=_DISTILLED, read=_read_pooler, write=_write_pooler, **POOLER),
    _model(_DEIT, "DeiTModel", fixed=_fixed(_DEIT, **TOKENS), written="back"),
    _masked(_DEIT, "DeiTForMaskedImageModeling"),
    _MSN,
    # The one class that returns the tokens of a plain ViT as they are.
    _model(_MSN, "ViTMSNModel", fixed=_fixed(_MSN, **TOKENS), written="any"),
    # Its model masks patches unless `mask_ratio` is 0, so that no other source becomes one.
    _model(_MAE, "ViTMAEModel", written="back"),
    replace(_MAE, name="ViTMAEForPreTraining", unused=(DECODER,), written="never"),
    _IJEPA,
    _model(_IJEPA, "IJepaModel", fixed=_fixed(_IJEPA, **TOKENS)),
)
