"""The image towers of CLIP, SigLIP and SigLIP 2.

Of a whole model, with a text tower, the image tower is read. SigLIP 2 here has images of one size: its own inputs,
patches of images of any shape with a mask, are beyond our models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....configs import VitConfig
from ...shapes import Shape
from ..translate import Entry, Unused
from .architecture import Architecture, Json, Setting, attention, blocks, settings, square_side
from .vit import CLASSIFIER

NAMES = (
    Entry("cls_token", "embeddings.class_embedding", "d -> 1 1 d"),
    Entry("pos_embed", "embeddings.position_embedding.weight", "n d -> 1 n d"),
    Entry("patch_embed.proj", "embeddings.patch_embedding"),
    Entry("norm_pre", "pre_layrnorm"),
    *blocks(
        "encoder.layers.{i}",
        {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        | attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    ),
    Entry("norm", "post_layernorm"),
    Entry("attn_pool.latent", "head.probe"),
    Entry("attn_pool.q.weight", "head.attention.in_proj_weight", part=(0, 1, 3)),
    Entry("attn_pool.q.bias", "head.attention.in_proj_bias", part=(0, 1, 3)),
    Entry("attn_pool.kv.weight", "head.attention.in_proj_weight", part=(1, 3, 3)),
    Entry("attn_pool.kv.bias", "head.attention.in_proj_bias", part=(1, 3, 3)),
    Entry("attn_pool.proj", "head.attention.out_proj"),
    Entry("attn_pool.norm", "head.layernorm"),
    Entry("attn_pool.mlp.fc1", "head.mlp.fc1"),
    Entry("attn_pool.mlp.fc2", "head.mlp.fc2"),
)
# A linear layer over the pixels of a patch, channels last.
SIGLIP2_NAMES = (
    Entry("patch_embed.proj", "embeddings.patch_embedding", "d (ph pw c) -> d c ph pw"),
    *NAMES,
)

POSITION_IDS = Unused(r"embeddings\.position_ids", "0, 1, 2, ...")
TEXT = Unused(r"text_model\..*|text_projection\..*", "the text tower; the model here is the image tower")
LOGITS = Unused(r"logit_scale|logit_bias", "compares images with texts")
LAST_NORM = Unused(r"post_layernorm\..*", "the classifier takes tokens that are not normalised")
POOLING_HEAD = Unused(r"head\..*", "the classifier takes the mean of the tokens, not what this attention pools")


def _tower_settings(act: str, eps: float, **defaults: Any) -> tuple[Setting, ...]:
    dropped = dict(qkv_bias=None, hidden_dropout_prob=None, attention_probs_dropout_prob=None)
    common = settings(hidden_act=act, layer_norm_eps=eps, **dropped, **defaults)
    return (*common, Setting("attention_dropout", "attn_drop_rate", 0.0))


def _last_norm(config: VitConfig) -> dict[str, tuple[Shape, float]]:
    shape = (config.embed_dim,)
    return {"post_layernorm.weight": (shape, 1.0), "post_layernorm.bias": (shape, 0.0)}


def _read_projection(tower: Json, _: Json) -> dict[str, Any]:
    return {"num_classes": tower.get("projection_dim", 512)}


def _read_shared_projection(_: Json, data: Json) -> dict[str, Any]:
    """The width is beside both towers."""
    return {"num_classes": data.get("projection_dim", 512)}


def _write_projection(config: VitConfig) -> dict[str, Any]:
    return {"projection_dim": config.num_classes}


_CLIP = Architecture(
    name="CLIPVisionModel",
    model_type="clip_vision_model",
    settings=_tower_settings("quick_gelu", 1e-5, patch_size=32),
    fixed=dict(pre_norm=True, patch_bias=False, pos_embed_resize="bicubic"),
    table=NAMES,
    base="vision_model.",
    prefixed=True,  # transformers 5 reads both, 4 nothing else
    square=True,
    unused=(POSITION_IDS,),
)
_PROJECTION = replace(
    _CLIP,
    name="CLIPVisionModelWithProjection",
    fixed=dict(_CLIP.fixed) | dict(head_bias=False),
    read=_read_projection,
    write=_write_projection,
    head=(Entry("head", "visual_projection"),),
)


def _read_pooling(tower: Json, _: Json) -> dict[str, Any]:
    return {"global_pool": "map" if tower.get("vision_use_head", True) else "none"}


def _write_pooling(config: VitConfig) -> dict[str, Any]:
    return {"vision_use_head": config.global_pool == "map"}


def _read_patches(tower: Json, _: Json) -> dict[str, Any]:
    return {"image_size": square_side(tower.get("num_patches", 256)) * tower.get("patch_size", 16)}


def _write_patches(config: VitConfig) -> dict[str, Any]:
    return {"num_patches": config.grid_size[0] ** 2}


def _siglip(
    name: str, model_type: str, of: Architecture, read: Any = None, write: Any = None
) -> tuple[Architecture, ...]:
    """The tower, the whole model and the classifier; the first two have attention pooling or none."""
    read, write = read or (lambda *_: {}), write or (lambda _: {})
    tower = replace(
        of,
        name=f"{name}VisionModel",
        model_type=f"{model_type}_vision_model",
        read=lambda *data: _read_pooling(*data) | read(*data),
        write=lambda config: _write_pooling(config) | write(config),
    )
    whole = dict(model_type=model_type, nested=True)
    return (
        tower,
        replace(tower, name=f"{name}Model", unused=(*tower.unused, TEXT, LOGITS), written="never", **whole),
        replace(
            tower,
            name=f"{name}ForImageClassification",
            fixed=dict(tower.fixed) | dict(global_pool="avg"),
            read=read,
            write=lambda config: {"vision_use_head": False} | write(config),
            head=CLASSIFIER,
            labels=True,
            unused=(*tower.unused, POOLING_HEAD),
            **whole,
        ),
    )


_SIGLIP = replace(
    _CLIP,
    settings=_tower_settings("gelu_pytorch_tanh", 1e-6),
    fixed=dict(class_token=False, pos_embed_resize="bicubic"),
)
_SIGLIP2 = replace(
    _SIGLIP,
    settings=_tower_settings("gelu_pytorch_tanh", 1e-6, image_size=None),
    fixed=dict(class_token=False, pos_embed_resize="bilinear_antialias"),
    table=SIGLIP2_NAMES,
)

ARCHITECTURES = (
    _CLIP,
    _PROJECTION,
    replace(
        _PROJECTION,
        name="CLIPModel",
        model_type="clip",
        read=_read_shared_projection,
        nested=True,
        unused=(POSITION_IDS, TEXT, LOGITS),
        written="never",
    ),
    replace(
        _CLIP,
        name="CLIPForImageClassification",
        model_type="clip",
        fixed=dict(_CLIP.fixed) | dict(final_norm=False, global_pool="avg"),
        head=CLASSIFIER,
        labels=True,
        nested=True,
        unused=(POSITION_IDS, LAST_NORM),
        added=_last_norm,
    ),
    *_siglip("Siglip", "siglip", _SIGLIP),
    *_siglip("Siglip2", "siglip2", _SIGLIP2, _read_patches, _write_patches),
)
