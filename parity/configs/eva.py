"""The named models of timm's `eva` and `beit` modules, a line each, as in `models.py`."""

from __future__ import annotations

from .models import (
    BASE,
    BETWIXT,
    FC_NORM,
    GIANT,
    GIANT_1536,
    HUGE,
    LARGE,
    MEDIUM,
    MEDIUMD,
    POOLED,
    SMALL,
    TINY,
    Fields,
    at,
    size,
)
from .rope import Rope

EVA02_BASE = size(768, 12, 12, 2048)
EVA02_LARGE = size(1024, 24, 16, 2730)
HUGE_PLUS = size(1280, 32, 20, 5120)
PE_GIGANTIC = size(1536, 50, 16, 8960)


def pe_rope(grid: int, *, offset: float = 1.0) -> Rope:
    """The positions of the Perception Encoder, trained on a grid of that many patches down and across."""
    return Rope(offset=offset, indexing="xy", reference_grid=(grid, grid))


BEIT: Fields = POOLED | dict(k_bias=False, pos_embed="none", rel_pos_bias="block", layer_scale_init=1e-5)
EVA: Fields = POOLED | dict(k_bias=False, normalize="clip")
EVA02: Fields = dict(k_bias=False, act="silu", rope=Rope(reference_grid=(16, 16)), normalize="clip")
EVA02_PACKED: Fields = EVA02 | POOLED | dict(mlp="swiglu_packed")
EVA02_CLIP: Fields = EVA02 | dict(mlp="swiglu", mlp_norm=True, attn_norm=True, qkv_fused=False)
EVA02_SPLIT: Fields = EVA02_CLIP | POOLED | dict(attn_norm=False)
DINO_ROPE: Fields = dict(
    rope=Rope(kind="centered", temperature=100.0, rotate_half=True),
    pos_embed="none",
    dynamic_image_size=True,
    num_classes=0,
    normalize="imagenet",
    crop_pct=1.0,
)
LINGBOT: Fields = DINO_ROPE | dict(
    norm_eps=1e-5, reg_tokens=4, layer_scale_init=1e-5, k_bias=False, interpolation="bilinear", crop_mode="squash"
)
DINOV3_QKVB: Fields = LINGBOT | dict(global_pool="avg", interpolation="bicubic", crop_mode="center")
DINOV3: Fields = DINOV3_QKVB | dict(qkv_bias=False, k_bias=True)
SAPIENS2: Fields = DINO_ROPE | dict(
    rope=Rope(kind="centered", temperature=100.0, rotate_half=True, rescale=2.0),
    reg_tokens=8,
    layer_scale_init=1.0,
    attn_only_layer_scale=True,
    norm="rmsnorm",
    mlp="swiglu_packed",
    act="silu",
    qk_norm=True,
    qkv_fused=False,
    interpolation="bilinear",
    crop_mode="squash",
)
ROPE: Fields = dict(layer_scale_init=1e-5, rope=Rope(temperature=100.0, indexing="xy"), normalize="imagenet")
ROPE_MIXED: Fields = ROPE | dict(rope=Rope(kind="mixed", temperature=10.0, indexing="xy"))
ROPE_REG: Fields = FC_NORM | dict(
    layer_scale_init=1e-5, pos_embed="none", rope=Rope(reference_grid=(16, 16)), crop_pct=0.95
)
PE: Fields = dict(
    norm_eps=1e-5, pre_norm=True, patch_bias=False, final_norm=False, global_pool="avg", num_classes=0, crop_pct=1.0
)
PE_CORE: Fields = PE | dict(final_norm=True, global_pool="map", pool_include_prefix=True, attn_pool_heads=8)

EVA_AND_BEIT: dict[str, Fields] = {
    # BEiT and BEiT v2 (Bao et al. 2021; Peng et al. 2022).
    "beit_base_patch16_224": BASE | BEIT | at(16, 224, layer_scale_init=0.1),
    "beit_base_patch16_384": BASE | BEIT | at(16, 384, layer_scale_init=0.1, crop_pct=1.0),
    "beit_large_patch16_224": LARGE | BEIT | at(16, 224),
    "beit_large_patch16_384": LARGE | BEIT | at(16, 384, crop_pct=1.0),
    "beit_large_patch16_512": LARGE | BEIT | at(16, 512, crop_pct=1.0),
    "beitv2_base_patch16_224": BASE | BEIT | at(16, 224, normalize="imagenet"),
    "beitv2_large_patch16_224": LARGE | BEIT | at(16, 224, normalize="imagenet", crop_pct=0.95),
    # EVA and EVA-02 (Fang et al. 2022, 2023) and their CLIP towers (Sun et al. 2023).
    "eva02_base_patch14_224": EVA02_BASE | EVA02_SPLIT | at(14, 224, num_classes=0),
    "eva02_base_patch14_448": EVA02_BASE | EVA02_SPLIT | at(14, 448, crop_pct=1.0, crop_mode="squash"),
    "eva02_base_patch16_clip_224": EVA02_BASE | EVA02_CLIP | at(16, 224, num_classes=512),
    "eva02_enormous_patch14_clip_224": size(1792, 64, 16, 15360)
    | EVA02_CLIP
    | at(
        14,
        224,
        num_classes=1024,
        block="res_post",
        act="gelu",
        rope=None,
        mlp="mlp",
        mlp_norm=False,
        qkv_fused=True,
        attn_norm=False,
    ),
    "eva02_large_patch14_224": EVA02_LARGE | EVA02_SPLIT | at(14, 224, num_classes=0),
    "eva02_large_patch14_448": EVA02_LARGE | EVA02_SPLIT | at(14, 448, crop_pct=1.0, crop_mode="squash"),
    "eva02_large_patch14_clip_224": EVA02_LARGE | EVA02_CLIP | at(14, 224, num_classes=768),
    "eva02_large_patch14_clip_336": EVA02_LARGE | EVA02_CLIP | at(14, 336, num_classes=768, crop_pct=1.0),
    "eva02_small_patch14_224": size(384, 12, 6, 1024) | EVA02_PACKED | at(14, 224, num_classes=0),
    "eva02_small_patch14_336": size(384, 12, 6, 1024) | EVA02_PACKED | at(14, 336, crop_pct=1.0),
    "eva02_tiny_patch14_224": size(192, 12, 3, 512) | EVA02_PACKED | at(14, 224, num_classes=0),
    "eva02_tiny_patch14_336": size(192, 12, 3, 512) | EVA02_PACKED | at(14, 336, crop_pct=1.0),
    "eva_giant_patch14_224": GIANT | EVA | at(14, 224),
    "eva_giant_patch14_336": GIANT | EVA | at(14, 336, crop_pct=1.0, crop_mode="squash"),
    "eva_giant_patch14_560": GIANT | EVA | at(14, 560, normalize="imagenet", crop_pct=1.0, crop_mode="squash"),
    "eva_giant_patch14_clip_224": GIANT
    | EVA
    | at(14, 224, num_classes=1024, global_pool="token", final_norm=True, fc_norm=False),
    # DINOv3 (Siméoni et al. 2025); `qkvb` keeps the biases of query and value, which are 0 in the published weights.
    "vit_7b_patch16_dinov3": size(4096, 40, 32, 8192) | DINOV3 | at(16, 256, mlp="swiglu", act="silu"),
    "vit_base_patch16_dinov3": BASE | DINOV3 | at(16, 256),
    "vit_base_patch16_dinov3_qkvb": BASE | DINOV3_QKVB | at(16, 256),
    "vit_huge_plus_patch16_dinov3": HUGE_PLUS | DINOV3 | at(16, 256, mlp="swiglu", act="silu"),
    "vit_huge_plus_patch16_dinov3_qkvb": HUGE_PLUS | DINOV3_QKVB | at(16, 256, mlp="swiglu", act="silu"),
    "vit_large_patch16_dinov3": LARGE | DINOV3 | at(16, 256),
    "vit_large_patch16_dinov3_qkvb": LARGE | DINOV3_QKVB | at(16, 256),
    "vit_small_patch16_dinov3": SMALL | DINOV3 | at(16, 256),
    "vit_small_patch16_dinov3_qkvb": SMALL | DINOV3_QKVB | at(16, 256),
    "vit_small_plus_patch16_dinov3": SMALL | DINOV3 | at(16, 256, mlp="swiglu", act="silu"),
    "vit_small_plus_patch16_dinov3_qkvb": SMALL | DINOV3_QKVB | at(16, 256, mlp="swiglu", act="silu"),
    "vit_tiny_patch16_dinov3_qkvb": TINY | DINOV3_QKVB | at(16, 256),
    # LingBot-Vision (Fu et al. 2026).
    "vit_base_patch16_lingbot": BASE | LINGBOT | at(16, 512),
    "vit_giant_patch16_lingbot": size(1536, 40, 24, 4096)
    | LINGBOT
    | at(16, 512, mlp="swiglu", act="silu", qkv_bias=False, k_bias=True),
    "vit_large_patch16_lingbot": LARGE | LINGBOT | at(16, 512),
    "vit_small_patch16_lingbot": SMALL | LINGBOT | at(16, 512),
    # Sapiens2 (Khirodkar et al. 2026): fewer heads of key and value in the middle blocks.
    "vit_5b_patch16_sapiens2": size(2432, 56, 32, 9728)
    | SAPIENS2
    | at(16, (1024, 768), num_kv_heads=(32,) * 8 + (16,) * 40 + (32,) * 8),
    "vit_base_patch16_sapiens2": BASE | SAPIENS2 | at(16, (1024, 768)),
    "vit_giant_patch16_sapiens2": GIANT_1536
    | SAPIENS2
    | at(16, (1024, 768), num_kv_heads=(24,) * 8 + (12,) * 24 + (24,) * 8),
    "vit_huge_patch16_sapiens2": HUGE | SAPIENS2 | at(16, (1024, 768), num_kv_heads=(16,) * 8 + (8,) * 16 + (16,) * 8),
    "vit_large_patch16_sapiens2": LARGE | SAPIENS2 | at(16, (1024, 768), num_kv_heads=(16,) * 8 + (8,) * 8 + (16,) * 8),
    # ViTs with rotary positions (Heo et al. 2024, and timm's own).
    "vit_base_patch16_rope_224": BASE | ROPE | at(16, 224, pos_embed="none"),
    "vit_base_patch16_rope_ape_224": BASE | ROPE | at(16, 224, pos_embed_prefix="none"),
    "vit_base_patch16_rope_mixed_224": BASE | ROPE_MIXED | at(16, 224, pos_embed="none"),
    "vit_base_patch16_rope_mixed_ape_224": BASE | ROPE_MIXED | at(16, 224, pos_embed_prefix="none"),
    "vit_base_patch16_rope_reg1_gap_256": BASE | ROPE_REG | at(16, 256, k_bias=False, reg_tokens=1),
    "vit_betwixt_patch16_rope_reg4_gap_256": BETWIXT
    | ROPE_REG
    | at(16, 256, k_bias=False, reg_tokens=4, normalize="clip"),
    "vit_large_patch16_rope_224": LARGE | ROPE | at(16, 224, pos_embed="none"),
    "vit_large_patch16_rope_ape_224": LARGE | ROPE | at(16, 224, pos_embed_prefix="none"),
    "vit_large_patch16_rope_mixed_224": LARGE | ROPE_MIXED | at(16, 224, pos_embed="none"),
    "vit_large_patch16_rope_mixed_ape_224": LARGE | ROPE_MIXED | at(16, 224, pos_embed_prefix="none"),
    "vit_medium_patch16_rope_reg1_gap_256": MEDIUM | ROPE_REG | at(16, 256, k_bias=False, reg_tokens=1),
    "vit_mediumd_patch16_rope_reg1_gap_256": MEDIUMD | ROPE_REG | at(16, 256, qkv_bias=False, reg_tokens=1),
    "vit_small_patch16_rope_224": SMALL | ROPE | at(16, 224, pos_embed="none"),
    "vit_small_patch16_rope_ape_224": SMALL | ROPE | at(16, 224, pos_embed_prefix="none"),
    "vit_small_patch16_rope_mixed_224": SMALL | ROPE_MIXED | at(16, 224, pos_embed="none"),
    "vit_small_patch16_rope_mixed_ape_224": SMALL | ROPE_MIXED | at(16, 224, pos_embed_prefix="none"),
    # Perception Encoder (Bolya et al. 2025).
    "vit_pe_core_base_patch16_224": BASE
    | PE_CORE
    | at(16, 224, num_classes=1024, rope=pe_rope(14), attn_pool_mlp_dim=3072),
    "vit_pe_core_gigantic_patch14_448": PE_GIGANTIC
    | PE_CORE
    | at(14, 448, num_classes=1280, class_token=False, rope=pe_rope(32, offset=0.0), attn_pool_mlp_dim=6144),
    "vit_pe_core_large_patch14_336": LARGE
    | PE_CORE
    | at(14, 336, num_classes=1024, rope=pe_rope(24), attn_pool_mlp_dim=4096),
    "vit_pe_core_small_patch16_384": SMALL
    | PE_CORE
    | at(16, 384, num_classes=512, rope=pe_rope(24), attn_pool_mlp_dim=1536),
    "vit_pe_core_tiny_patch16_384": TINY
    | PE_CORE
    | at(16, 384, num_classes=512, rope=pe_rope(24), attn_pool_mlp_dim=768),
    "vit_pe_lang_gigantic_patch14_448": size(1536, 47, 16, 8960)
    | PE
    | at(14, 448, layer_scale_init=0.1, class_token=False, rope=pe_rope(32, offset=0.0)),
    "vit_pe_lang_large_patch14_448": size(1024, 23, 16, 4096)
    | PE
    | at(14, 448, layer_scale_init=0.1, rope=pe_rope(32)),
    "vit_pe_spatial_base_patch16_512": BASE | PE | at(16, 512, rope=pe_rope(32)),
    "vit_pe_spatial_gigantic_patch14_448": PE_GIGANTIC
    | PE
    | at(14, 448, layer_scale_init=0.1, class_token=False, rope=pe_rope(32, offset=0.0)),
    "vit_pe_spatial_large_patch14_448": LARGE | PE | at(14, 448, rope=pe_rope(32)),
    "vit_pe_spatial_small_patch16_512": SMALL | PE | at(16, 512, rope=pe_rope(32)),
    "vit_pe_spatial_tiny_patch16_512": TINY | PE | at(16, 512, rope=pe_rope(32)),
}
