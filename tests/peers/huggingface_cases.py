"""A tiny model for each class of transformers that we read, and for each option that makes another model of it."""

from __future__ import annotations

from typing import Any

WIDTHS = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, layer_norm_eps=1e-3)
MLP = dict(intermediate_size=40)
# Neither images nor patches are square where the class allows it.
OBLONG = dict(image_size=(24, 20), patch_size=(8, 4))
SQUARE = dict(image_size=24, patch_size=8)
VIT = WIDTHS | MLP | OBLONG
BEIT = WIDTHS | MLP | SQUARE | dict(layer_scale_init_value=0.3)
DINOV2 = WIDTHS | SQUARE
DINOV3 = WIDTHS | MLP | OBLONG
TOWER = WIDTHS | MLP | SQUARE
PATCHES = WIDTHS | MLP | dict(num_patches=9, patch_size=8)
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, vocab_size=30)
LABELS = dict(num_labels=5)
MAE = dict(mask_ratio=0.0, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)


def whole(vision: dict[str, Any], **others: Any) -> dict[str, Any]:
    return dict(vision_config=vision, text_config=TEXT, **others)


# Class and settings by the name of the case. One case for each class and each option that makes another model of it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", VIT | LABELS),
    "vit-no-qkv-bias": ("ViTForImageClassification", VIT | LABELS | dict(qkv_bias=False)),
    "vit-no-labels": ("ViTForImageClassification", VIT | dict(num_labels=0)),
    "vit-gray-rest": ("ViTForImageClassification", VIT | dict(num_channels=1, image_size=(27, 21))),
    "vit-pooler": ("ViTModel", VIT | dict(pooler_output_size=7)),
    "vit-no-pooler": ("ViTModel", VIT),
    "vit-masked": ("ViTForMaskedImageModeling", WIDTHS | MLP | SQUARE),
    "deit": ("DeiTForImageClassification", VIT | LABELS),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", VIT | LABELS),
    "deit-pooler": ("DeiTModel", VIT),
    "deit-no-pooler": ("DeiTModel", VIT),
    "deit-masked": ("DeiTForMaskedImageModeling", WIDTHS | MLP | SQUARE),
    "mae": ("ViTMAEModel", VIT | MAE),
    "mae-pretraining": ("ViTMAEForPreTraining", WIDTHS | MLP | SQUARE | MAE),
    "msn": ("ViTMSNModel", VIT),
    "msn-labels": ("ViTMSNForImageClassification", VIT | LABELS),
    "ijepa": ("IJepaModel", VIT),
    "ijepa-labels": ("IJepaForImageClassification", VIT | LABELS),
    "beit": ("BeitForImageClassification", BEIT | LABELS | dict(use_relative_position_bias=True)),
    "beit-shared": ("BeitModel", BEIT | dict(use_shared_relative_position_bias=True)),
    "beit-token": ("BeitModel", BEIT | dict(use_mean_pooling=False, use_absolute_position_embeddings=True)),
    "beit-no-scale": ("BeitForImageClassification", BEIT | LABELS | dict(layer_scale_init_value=0.0)),
    "beit-masked": (
        "BeitForMaskedImageModeling",
        BEIT | dict(use_shared_relative_position_bias=True, use_mask_token=True, vocab_size=11),
    ),
    "data2vec": ("Data2VecVisionForImageClassification", BEIT | LABELS | dict(use_relative_position_bias=True)),
    "data2vec-model": ("Data2VecVisionModel", BEIT | dict(use_shared_relative_position_bias=True)),
    "data2vec-norm": ("Data2VecVisionModel", BEIT | dict(use_mean_pooling=False, use_relative_position_bias=True)),
    "dinov2": ("Dinov2Model", DINOV2 | dict(mlp_ratio=3)),
    "dinov2-swiglu": ("Dinov2Model", DINOV2 | dict(use_swiglu_ffn=True)),
    "dinov2-labels": ("Dinov2ForImageClassification", DINOV2 | LABELS),
    "dinov2-backbone": ("Dinov2Backbone", DINOV2),
    "dinov2-registers": ("Dinov2WithRegistersModel", DINOV2 | dict(num_register_tokens=3)),
    "dinov2-registers-swiglu": ("Dinov2WithRegistersModel", DINOV2 | dict(use_swiglu_ffn=True, qkv_bias=False)),
    "dinov2-registers-labels": ("Dinov2WithRegistersForImageClassification", DINOV2 | LABELS),
    "dinov3": ("DINOv3ViTModel", DINOV3 | dict(num_register_tokens=4)),
    "dinov3-gated": ("DINOv3ViTModel", DINOV3 | dict(use_gated_mlp=True, hidden_act="silu", rope_theta=30.0)),
    "dinov3-no-bias": (
        "DINOv3ViTModel",
        DINOV3 | dict(query_bias=False, value_bias=False, proj_bias=False, mlp_bias=False, num_register_tokens=1),
    ),
    "dinov3-key-bias": ("DINOv3ViTModel", DINOV3 | dict(key_bias=True)),
    "clip": ("CLIPVisionModel", TOWER),
    "clip-projection": ("CLIPVisionModelWithProjection", TOWER | dict(projection_dim=9, hidden_act="gelu")),
    "clip-whole": ("CLIPModel", whole(TOWER, projection_dim=9)),
    "clip-labels": ("CLIPForImageClassification", whole(TOWER, **LABELS)),
    "siglip": ("SiglipVisionModel", TOWER | dict(image_size=27)),
    "siglip-no-head": ("SiglipVisionModel", TOWER | dict(vision_use_head=False)),
    "siglip-whole": ("SiglipModel", whole(TOWER)),
    "siglip-labels": ("SiglipForImageClassification", whole(TOWER, **LABELS)),
    "siglip2": ("Siglip2VisionModel", PATCHES),
    "siglip2-no-head": ("Siglip2VisionModel", PATCHES | dict(vision_use_head=False)),
    "siglip2-whole": ("Siglip2Model", whole(PATCHES)),
    "siglip2-labels": ("Siglip2ForImageClassification", whole(PATCHES, **LABELS)),
}

# What a class is built with besides; what becomes of a case's model must be loaded in the same way.
OPTIONS: dict[str, dict[str, Any]] = {
    "vit-no-pooler": dict(add_pooling_layer=False),
    "deit-no-pooler": dict(add_pooling_layer=False),
}
LOADED_WITH = OPTIONS | {
    "deit-masked": dict(add_pooling_layer=False),
    "mae": dict(mask_ratio=0.0),
    "mae-pretraining": dict(mask_ratio=0.0),
}
