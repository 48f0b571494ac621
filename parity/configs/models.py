"""The named models, a line each: a size, what its family adds, and `at(patch_size, image_size, ...)`.

Names and numbers are timm's (an entry without a tag is the first of its tags); `num_classes` and the preprocessing are
those of the entry that timm loads by default.
"""

from __future__ import annotations

from typing import Any

from .preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from .rope import Rope

Fields = dict[str, Any]

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "half": (HALF, HALF),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "gray": ((0.5,), (0.5,)),
}


def size(embed_dim: int, depth: int, num_heads: int, mlp_dim: int, **options: Any) -> Fields:
    """The fields that make a model large or small."""
    return dict(embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim, **options)


def at(patch_size: int | tuple[int, int], image_size: int | tuple[int, int], **options: Any) -> Fields:
    """The fields of the input, and whatever else one model has of its own."""
    return dict(patch_size=patch_size, image_size=image_size, **options)


TINY = size(192, 12, 3, 768)
SMALL = size(384, 12, 6, 1536)
SMALL_36 = size(384, 36, 6, 1536)
BASE = size(768, 12, 12, 3072)
BASE_16_HEADS = size(768, 12, 16, 3072)
BASE_PLUS = size(896, 12, 14, 3584)
LARGE = size(1024, 24, 16, 4096)
HUGE = size(1280, 32, 16, 5120)
GIANT = size(1408, 40, 16, 6144)
GIANT_1536 = size(1536, 40, 24, 6144)
GIANT_DINOV2 = size(1536, 40, 24, 4096, mlp="swiglu_packed", act="silu")
GIANTOPT = size(1536, 40, 16, 6144)
GIGANTIC = size(1664, 48, 16, 8192)
XSMALL = size(256, 10, 4, 1024)
WEE = size(256, 14, 4, 1280)
LITTLE = size(320, 14, 5, 1792)
MEDIUM = size(512, 12, 8, 2048)
MEDIUMD = size(512, 20, 8, 2048)
BETWIXT = size(640, 12, 10, 2560)
SO150M = size(896, 18, 14, 2304)
SO150M2 = size(832, 21, 13, 2176)
SO400M = size(1152, 27, 16, 4304)

IMAGENET: Fields = dict(normalize="imagenet")
GAP: Fields = dict(class_token=False, global_pool="avg")
POOLED: Fields = dict(global_pool="avg", final_norm=False, fc_norm=True)
FC_NORM: Fields = GAP | POOLED
REG_GAP: Fields = FC_NORM | dict(pos_embed_prefix="none", layer_scale_init=1e-5, crop_pct=0.95)
CLIP: Fields = dict(pre_norm=True, patch_bias=False, norm_eps=1e-5, normalize="clip", crop_pct=1.0)
QUICK_CLIP: Fields = CLIP | dict(act="quick_gelu")
SIGLIP: Fields = dict(class_token=False, global_pool="map", num_classes=0)
SIGLIP_GAP: Fields = GAP | dict(num_classes=0)
DEIT3: Fields = dict(pos_embed_prefix="none", layer_scale_init=1e-6, normalize="imagenet")
DINOV2: Fields = dict(num_classes=0, layer_scale_init=1e-5, normalize="imagenet", crop_pct=1.0)
DINOV2_REG: Fields = DINOV2 | dict(reg_tokens=4, pos_embed_prefix="none")
RADIO: Fields = DINOV2 | dict(pos_embed_prefix="none", final_norm=False, normalize="clip")
TIPS: Fields = DINOV2_REG | dict(reg_tokens=1, layer_scale_init=1.0, normalize="unit")
AIMV2: Fields = dict(
    class_token=False,
    global_pool="avg",
    num_classes=0,
    mlp="swiglu",
    act="silu",
    norm="rmsnorm",
    norm_eps=1e-5,
    embed_norm=True,
    qkv_bias=False,
    proj_bias=False,
    mlp_bias=False,
    normalize="clip",
    crop_pct=1.0,
)
BEIT3: Fields = FC_NORM | dict(
    class_token=True, norm_eps=1e-5, attn_norm=True, mlp_norm=True, normalize="imagenet", crop_pct=1.0
)
XP: Fields = dict(
    block="parallel_scaling",
    norm="rmsnorm",
    qk_norm=True,
    qkv_bias=False,
    pre_norm=True,
    patch_bias=False,
    pos_embed_prefix="none",
)
THINGS: Fields = dict(block="parallel_things", layer_scale_init=1e-5)
PWEE = size(256, 16, 4, 1280)

VIT: dict[str, Fields] = {
    # Dosovitskiy et al. 2020 and what grew out of it (AugReg, SAM, MAE, I-JEPA, SBB, RADIO, TIPS).
    "eva_large_patch14_196": LARGE
    | at(14, 196, global_pool="avg", fc_norm=True, final_norm=False, crop_pct=1.0, normalize="clip"),
    "eva_large_patch14_336": LARGE
    | at(
        14, 336, global_pool="avg", fc_norm=True, final_norm=False, crop_pct=1.0, crop_mode="squash", normalize="clip"
    ),
    "flexivit_base": BASE | at(16, 240, pos_embed_prefix="none", crop_pct=0.95),
    "flexivit_large": LARGE | at(16, 240, pos_embed_prefix="none", crop_pct=0.95),
    "flexivit_small": SMALL | at(16, 240, pos_embed_prefix="none", crop_pct=0.95),
    "vit_base_patch14_reg1_tipsv2": BASE | TIPS | at(14, 448),
    "vit_base_patch16_224": BASE | at(16, 224),
    "vit_base_patch16_224_miil": BASE
    | at(16, 224, num_classes=11221, qkv_bias=False, interpolation="bilinear", crop_pct=0.875, normalize="unit"),
    "vit_base_patch16_384": BASE | at(16, 384, crop_pct=1.0),
    "vit_base_patch16_gap_224": BASE_16_HEADS | GAP | at(16, 224),
    "vit_base_patch16_plus_240": BASE_PLUS | at(16, 240, layer_scale_init=1e-5, crop_pct=0.95),
    "vit_base_patch16_radio_v3": BASE | RADIO | at(16, 512, reg_tokens=7),
    "vit_base_patch16_reg4_gap_256": BASE | FC_NORM | at(16, 256, reg_tokens=4, pos_embed_prefix="none"),
    "vit_base_patch32_224": BASE | at(32, 224),
    "vit_base_patch32_384": BASE | at(32, 384, crop_pct=1.0),
    "vit_base_patch32_plus_256": BASE_PLUS | at(32, 256, layer_scale_init=1e-5, crop_pct=0.95),
    "vit_base_patch8_224": BASE | at(8, 224),
    "vit_betwixt_patch16_gap_256": BETWIXT | GAP | at(16, 256, layer_scale_init=1e-6, qkv_bias=False, crop_pct=0.95),
    "vit_betwixt_patch16_reg1_gap_256": BETWIXT | REG_GAP | at(16, 256, reg_tokens=1),
    "vit_betwixt_patch16_reg4_gap_256": BETWIXT | REG_GAP | at(16, 256, reg_tokens=4),
    "vit_betwixt_patch16_reg4_gap_384": BETWIXT | REG_GAP | at(16, 384, reg_tokens=4, crop_pct=1.0),
    "vit_giant_patch14_224": GIANT | at(14, 224),
    "vit_giant_patch14_reg1_tipsv2": GIANT_DINOV2 | TIPS | at(14, 448),
    "vit_giant_patch16_gap_224": GIANT | SIGLIP_GAP | at(16, 224, normalize="imagenet"),
    "vit_giant_patch16_radio_v3": GIANT_1536 | RADIO | at(16, 512, reg_tokens=7, layer_scale_init=None),
    "vit_gigantic_patch14_224": GIGANTIC | at(14, 224),
    "vit_huge_patch14_224": HUGE | at(14, 224, num_classes=0),
    "vit_huge_patch14_gap_224": HUGE | SIGLIP_GAP | at(14, 224, normalize="imagenet"),
    "vit_huge_patch16_gap_448": HUGE | SIGLIP_GAP | at(16, 448, crop_pct=1.0, normalize="imagenet"),
    "vit_huge_patch16_radio_v3": HUGE | RADIO | at(16, 512, reg_tokens=7, layer_scale_init=None),
    "vit_huge_patch16_radio_v4": HUGE | RADIO | at(16, 512, reg_tokens=9, layer_scale_init=None),
    "vit_intern300m_patch14_448": LARGE
    | DINOV2
    | at(14, 448, final_norm=False, layer_scale_init=0.1, dynamic_image_size=True),
    "vit_large_patch14_224": LARGE | at(14, 224),
    "vit_large_patch14_reg1_tipsv2": LARGE | TIPS | at(14, 448),
    "vit_large_patch16_224": LARGE | at(16, 224),
    "vit_large_patch16_384": LARGE | at(16, 384, crop_pct=1.0),
    "vit_large_patch16_radio_v3": LARGE | RADIO | at(16, 512, reg_tokens=7),
    "vit_large_patch32_224": LARGE | at(32, 224, num_classes=0),
    "vit_large_patch32_384": LARGE | at(32, 384, crop_pct=1.0),
    "vit_little_patch16_reg1_gap_256": LITTLE | REG_GAP | at(16, 256, reg_tokens=1),
    "vit_little_patch16_reg4_gap_256": LITTLE | REG_GAP | at(16, 256, reg_tokens=4),
    "vit_medium_patch16_gap_240": MEDIUM
    | GAP
    | at(16, 240, num_classes=11821, layer_scale_init=1e-6, qkv_bias=False, crop_pct=0.95),
    "vit_medium_patch16_gap_256": MEDIUM | GAP | at(16, 256, layer_scale_init=1e-6, qkv_bias=False, crop_pct=0.95),
    "vit_medium_patch16_gap_384": MEDIUM
    | GAP
    | at(16, 384, layer_scale_init=1e-6, qkv_bias=False, crop_pct=0.95, crop_mode="squash"),
    "vit_medium_patch16_reg1_gap_256": MEDIUM | REG_GAP | at(16, 256, reg_tokens=1),
    "vit_medium_patch16_reg4_gap_256": MEDIUM | REG_GAP | at(16, 256, reg_tokens=4),
    "vit_mediumd_patch16_reg4_gap_256": MEDIUMD | REG_GAP | at(16, 256, reg_tokens=4),
    "vit_mediumd_patch16_reg4_gap_384": MEDIUMD | REG_GAP | at(16, 384, reg_tokens=4, crop_pct=1.0),
    "vit_small_patch16_224": SMALL | at(16, 224),
    "vit_small_patch16_36x1_224": SMALL_36 | at(16, 224, layer_scale_init=1e-5),
    "vit_small_patch16_384": SMALL | at(16, 384, crop_pct=1.0),
    "vit_small_patch32_224": SMALL | at(32, 224),
    "vit_small_patch32_384": SMALL | at(32, 384, crop_pct=1.0),
    "vit_small_patch8_224": SMALL | IMAGENET | at(8, 224, num_classes=0),
    "vit_so150m2_patch16_reg1_gap_256": SO150M2
    | FC_NORM
    | at(16, 256, reg_tokens=1, layer_scale_init=1e-5, qkv_bias=False, crop_pct=1.0),
    "vit_so150m2_patch16_reg1_gap_384": SO150M2
    | FC_NORM
    | at(16, 384, reg_tokens=1, layer_scale_init=1e-5, qkv_bias=False, crop_pct=1.0),
    "vit_so150m2_patch16_reg1_gap_448": SO150M2
    | FC_NORM
    | at(16, 448, reg_tokens=1, layer_scale_init=1e-5, qkv_bias=False, crop_pct=1.0, crop_mode="squash"),
    "vit_so150m_patch16_reg4_gap_256": SO150M | GAP | at(16, 256, reg_tokens=4, crop_pct=0.95),
    "vit_so150m_patch16_reg4_gap_384": SO150M | GAP | at(16, 384, reg_tokens=4, crop_pct=1.0),
    "vit_so150m_patch16_reg4_map_256": SO150M | at(16, 256, class_token=False, global_pool="map", reg_tokens=4),
    "vit_so400m_patch14_reg1_tipsv2": SO400M | TIPS | at(14, 448),
    "vit_so400m_patch16_radio_v4": SO400M | RADIO | at(16, 512, reg_tokens=9, layer_scale_init=None),
    "vit_tiny_patch16_224": TINY | at(16, 224),
    "vit_tiny_patch16_384": TINY | at(16, 384, crop_pct=1.0),
    "vit_wee_patch16_reg1_gap_256": WEE | REG_GAP | at(16, 256, reg_tokens=1),
    # DeiT (Touvron et al. 2020) and DeiT III (2022).
    "deit3_base_patch16_224": BASE | DEIT3 | at(16, 224),
    "deit3_base_patch16_384": BASE | DEIT3 | at(16, 384, crop_pct=1.0),
    "deit3_huge_patch14_224": HUGE | DEIT3 | at(14, 224),
    "deit3_large_patch16_224": LARGE | DEIT3 | at(16, 224),
    "deit3_large_patch16_384": LARGE | DEIT3 | at(16, 384, crop_pct=1.0),
    "deit3_medium_patch16_224": MEDIUM | DEIT3 | at(16, 224),
    "deit3_small_patch16_224": SMALL | DEIT3 | at(16, 224),
    "deit3_small_patch16_384": SMALL | DEIT3 | at(16, 384, crop_pct=1.0),
    "deit_base_distilled_patch16_224": BASE | IMAGENET | at(16, 224, dist_token=True),
    "deit_base_distilled_patch16_384": BASE | IMAGENET | at(16, 384, dist_token=True, crop_pct=1.0),
    "deit_base_patch16_224": BASE | IMAGENET | at(16, 224),
    "deit_base_patch16_384": BASE | IMAGENET | at(16, 384, crop_pct=1.0),
    "deit_small_distilled_patch16_224": SMALL | IMAGENET | at(16, 224, dist_token=True),
    "deit_small_patch16_224": SMALL | IMAGENET | at(16, 224),
    "deit_tiny_distilled_patch16_224": TINY | IMAGENET | at(16, 224, dist_token=True),
    "deit_tiny_patch16_224": TINY | IMAGENET | at(16, 224),
    # DINOv2 (Oquab et al. 2023), with registers (Darcet et al. 2023).
    "vit_base_patch14_dinov2": BASE | DINOV2 | at(14, 518),
    "vit_base_patch14_reg4_dinov2": BASE | DINOV2_REG | at(14, 518),
    "vit_giant_patch14_dinov2": GIANT_DINOV2 | DINOV2 | at(14, 518),
    "vit_giant_patch14_reg4_dinov2": GIANT_DINOV2 | DINOV2_REG | at(14, 518),
    "vit_large_patch14_dinov2": LARGE | DINOV2 | at(14, 518),
    "vit_large_patch14_reg4_dinov2": LARGE | DINOV2_REG | at(14, 518),
    "vit_small_patch14_dinov2": SMALL | DINOV2 | at(14, 518),
    "vit_small_patch14_reg4_dinov2": SMALL | DINOV2_REG | at(14, 518),
    # CLIP image towers (Radford et al. 2021, OpenCLIP, MetaCLIP, DFN).
    "vit_base_patch16_clip_224": BASE | CLIP | at(16, 224, crop_pct=0.95),
    "vit_base_patch16_clip_384": BASE | CLIP | at(16, 384, crop_mode="squash"),
    "vit_base_patch16_clip_quickgelu_224": BASE | QUICK_CLIP | at(16, 224, num_classes=512),
    "vit_base_patch16_plus_clip_240": BASE_PLUS | CLIP | at(16, 240, num_classes=640),
    "vit_base_patch32_clip_224": BASE | CLIP | at(32, 224, crop_pct=0.9),
    "vit_base_patch32_clip_256": BASE | CLIP | at(32, 256, num_classes=512),
    "vit_base_patch32_clip_384": BASE | CLIP | at(32, 384),
    "vit_base_patch32_clip_448": BASE | CLIP | at(32, 448),
    "vit_base_patch32_clip_quickgelu_224": BASE | CLIP | at(32, 224, num_classes=512, act="quick_gelu", crop_pct=0.9),
    "vit_betwixt_patch32_clip_224": BETWIXT | CLIP | at(32, 224, num_classes=512, crop_pct=0.9),
    "vit_giant_patch14_clip_224": GIANT | CLIP | at(14, 224, num_classes=1024),
    "vit_gigantic_patch14_clip_224": GIGANTIC | CLIP | at(14, 224, num_classes=1280),
    "vit_gigantic_patch14_clip_378": GIGANTIC | CLIP | at(14, 378, num_classes=1280, crop_mode="squash"),
    "vit_gigantic_patch14_clip_quickgelu_224": GIGANTIC | QUICK_CLIP | at(14, 224, num_classes=1280),
    "vit_huge_patch14_clip_224": HUGE | CLIP | at(14, 224),
    "vit_huge_patch14_clip_336": HUGE | CLIP | at(14, 336, crop_mode="squash"),
    "vit_huge_patch14_clip_378": HUGE | CLIP | at(14, 378, num_classes=1024),
    "vit_huge_patch14_clip_quickgelu_224": HUGE | QUICK_CLIP | at(14, 224, num_classes=1024),
    "vit_huge_patch14_clip_quickgelu_378": HUGE | QUICK_CLIP | at(14, 378, num_classes=1024),
    "vit_large_patch14_clip_224": LARGE | at(14, 224, pre_norm=True, patch_bias=False, norm_eps=1e-5, crop_pct=1.0),
    "vit_large_patch14_clip_336": LARGE
    | at(14, 336, pre_norm=True, patch_bias=False, norm_eps=1e-5, crop_pct=1.0, crop_mode="squash"),
    "vit_large_patch14_clip_quickgelu_224": LARGE | QUICK_CLIP | at(14, 224, num_classes=768),
    "vit_large_patch14_clip_quickgelu_336": LARGE | QUICK_CLIP | at(14, 336, num_classes=768),
    "vit_medium_patch16_clip_224": MEDIUM | CLIP | at(16, 224, num_classes=512, crop_pct=0.9),
    "vit_medium_patch32_clip_224": MEDIUM | CLIP | at(32, 224, num_classes=512, crop_pct=0.9),
    "vit_xsmall_patch16_clip_224": XSMALL | CLIP | at(16, 224, num_classes=512, crop_pct=0.9),
    # SigLIP image towers (Zhai et al. 2023; Tschannen et al. 2025): attention pooling or the mean.
    "vit_base_patch16_siglip_224": BASE | SIGLIP | at(16, 224),
    "vit_base_patch16_siglip_256": BASE | SIGLIP | at(16, 256),
    "vit_base_patch16_siglip_384": BASE | SIGLIP | at(16, 384),
    "vit_base_patch16_siglip_512": BASE | SIGLIP | at(16, 512),
    "vit_base_patch16_siglip_gap_224": BASE | SIGLIP_GAP | at(16, 224),
    "vit_base_patch16_siglip_gap_256": BASE | SIGLIP_GAP | at(16, 256),
    "vit_base_patch16_siglip_gap_384": BASE | SIGLIP_GAP | at(16, 384),
    "vit_base_patch16_siglip_gap_512": BASE | SIGLIP_GAP | at(16, 512),
    "vit_base_patch32_siglip_256": BASE | SIGLIP | at(32, 256, act="gelu_tanh"),
    "vit_base_patch32_siglip_gap_256": BASE | SIGLIP_GAP | at(32, 256, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_256": GIANTOPT | SIGLIP | at(16, 256, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_384": GIANTOPT | SIGLIP | at(16, 384, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_gap_256": GIANTOPT | SIGLIP_GAP | at(16, 256, act="gelu_tanh"),
    "vit_giantopt_patch16_siglip_gap_384": GIANTOPT | SIGLIP_GAP | at(16, 384, act="gelu_tanh"),
    "vit_large_patch16_siglip_256": LARGE | SIGLIP | at(16, 256),
    "vit_large_patch16_siglip_384": LARGE | SIGLIP | at(16, 384),
    "vit_large_patch16_siglip_512": LARGE | SIGLIP | at(16, 512, act="gelu_tanh"),
    "vit_large_patch16_siglip_gap_256": LARGE | SIGLIP_GAP | at(16, 256),
    "vit_large_patch16_siglip_gap_384": LARGE | SIGLIP_GAP | at(16, 384),
    "vit_large_patch16_siglip_gap_512": LARGE | SIGLIP_GAP | at(16, 512, act="gelu_tanh"),
    "vit_so400m_patch14_siglip_224": SO400M | SIGLIP | at(14, 224),
    "vit_so400m_patch14_siglip_378": SO400M | SIGLIP | at(14, 378),
    "vit_so400m_patch14_siglip_384": SO400M | SIGLIP | at(14, 384, drop_partial_patches=True),
    "vit_so400m_patch14_siglip_gap_224": SO400M | SIGLIP_GAP | at(14, 224),
    "vit_so400m_patch14_siglip_gap_378": SO400M | SIGLIP_GAP | at(14, 378),
    "vit_so400m_patch14_siglip_gap_384": SO400M | SIGLIP_GAP | at(14, 384, crop_pct=1.0, drop_partial_patches=True),
    "vit_so400m_patch14_siglip_gap_448": SO400M | SIGLIP_GAP | at(14, 448, crop_pct=1.0),
    "vit_so400m_patch14_siglip_gap_896": SO400M | SIGLIP_GAP | at(14, 896, crop_pct=1.0),
    "vit_so400m_patch16_siglip_256": SO400M | SIGLIP | at(16, 256, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_384": SO400M | SIGLIP | at(16, 384, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_512": SO400M | SIGLIP | at(16, 512, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_gap_256": SO400M | SIGLIP_GAP | at(16, 256, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_gap_384": SO400M | SIGLIP_GAP | at(16, 384, act="gelu_tanh"),
    "vit_so400m_patch16_siglip_gap_512": SO400M | SIGLIP_GAP | at(16, 512, act="gelu_tanh"),
    # AIMv2 (Fini et al. 2024), BEiT-3 (Wang et al. 2022), blocks side by side and differential attention.
    "aimv2_1b_patch14_224": size(2048, 24, 16, 5632) | AIMV2 | at(14, 224),
    "aimv2_1b_patch14_336": size(2048, 24, 16, 5632) | AIMV2 | at(14, 336),
    "aimv2_1b_patch14_448": size(2048, 24, 16, 5632) | AIMV2 | at(14, 448),
    "aimv2_3b_patch14_224": size(3072, 24, 24, 8192) | AIMV2 | at(14, 224),
    "aimv2_3b_patch14_336": size(3072, 24, 24, 8192) | AIMV2 | at(14, 336),
    "aimv2_3b_patch14_448": size(3072, 24, 24, 8192) | AIMV2 | at(14, 448),
    "aimv2_huge_patch14_224": size(1536, 24, 12, 4096) | AIMV2 | at(14, 224),
    "aimv2_huge_patch14_336": size(1536, 24, 12, 4096) | AIMV2 | at(14, 336),
    "aimv2_huge_patch14_448": size(1536, 24, 12, 4096) | AIMV2 | at(14, 448),
    "aimv2_large_patch14_224": size(1024, 24, 8, 2816) | AIMV2 | at(14, 224),
    "aimv2_large_patch14_336": size(1024, 24, 8, 2816) | AIMV2 | at(14, 336),
    "aimv2_large_patch14_448": size(1024, 24, 8, 2816) | AIMV2 | at(14, 448),
    "beit3_base_patch16_224": BASE | BEIT3 | at(16, 224),
    "beit3_giant_patch14_224": GIANT | BEIT3 | at(14, 224),
    "beit3_giant_patch14_336": GIANT | BEIT3 | at(14, 336),
    "beit3_large_patch16_224": LARGE | BEIT3 | at(16, 224),
    "vit_base_patch16_18x2_224": size(768, 18, 12, 3072) | THINGS | at(16, 224),
    "vit_base_patch16_rpn_224": BASE
    | at(
        16, 224, block="res_post", qkv_bias=False, final_norm=False, fc_norm=True, class_token=False, global_pool="avg"
    ),
    "vit_base_patch16_xp_224": BASE | XP | at(16, 224),
    "vit_dlittle_patch16_reg1_gap_256": LITTLE | REG_GAP | at(16, 256, differential_attention=True, reg_tokens=1),
    "vit_dpwee_patch16_reg1_gap_256": PWEE
    | REG_GAP
    | at(16, 256, block="parallel_scaling", differential_attention=True, reg_tokens=1),
    "vit_dwee_patch16_reg1_gap_256": WEE | REG_GAP | at(16, 256, differential_attention=True, reg_tokens=1),
    "vit_huge_patch14_xp_224": HUGE | XP | at(14, 224),
    "vit_large_patch14_xp_224": LARGE | XP | at(14, 224),
    "vit_pwee_patch16_reg1_gap_256": PWEE | REG_GAP | at(16, 256, block="parallel_scaling", reg_tokens=1),
    "vit_small_patch16_18x2_224": size(384, 18, 6, 1536) | THINGS | at(16, 224),
    # For tests, examples and the demo. The shapes are asymmetric, so that a transposed axis can't hide.
    "test_vit": size(64, 6, 2, 192) | at(16, 160, dynamic_image_size=True, crop_pct=0.95),
    "test_vit2": size(64, 8, 2, 192)
    | GAP
    | at(
        16,
        160,
        reg_tokens=1,
        layer_scale_init=1e-5,
        fc_norm=True,
        final_norm=False,
        dynamic_image_size=True,
        crop_pct=0.95,
    ),
    "test_vit3": size(96, 9, 3, 192)
    | at(
        16,
        160,
        layer_scale_init=1e-5,
        class_token=False,
        reg_tokens=1,
        global_pool="map",
        pool_include_prefix=True,
        crop_pct=0.95,
    ),
    "test_vit4": size(96, 9, 3, 288)
    | at(
        16,
        160,
        layer_scale_init=1e-5,
        dynamic_image_size=True,
        norm="rmsnorm",
        final_norm=False,
        fc_norm=True,
        class_token=False,
        reg_tokens=1,
        global_pool="avg",
        crop_pct=0.95,
    ),
    "vit_test": size(48, 3, 4, 80) | at((4, 8), (24, 40), num_classes=10),
    "vit_test_dist": size(48, 3, 4, 80) | IMAGENET | at((4, 8), (24, 40), num_classes=10, dist_token=True),
    "vit_test_reg_scale": size(48, 3, 4, 80) | DINOV2_REG | at((4, 8), (24, 40), num_classes=10),
    "vit_test_swiglu": size(48, 3, 4, 80, mlp="swiglu_packed", act="silu") | at((4, 8), (24, 40), num_classes=10),
    "vit_test_clip": size(48, 3, 4, 80) | QUICK_CLIP | at((4, 8), (24, 40), num_classes=10),
    "vit_test_map": size(48, 3, 4, 80) | SIGLIP | at((4, 8), (24, 40), act="gelu_tanh"),
    "vit_test_gap": size(48, 3, 4, 80) | FC_NORM | at((4, 8), (24, 40), num_classes=10, qkv_bias=False),
    "vit_test_sincos": size(48, 3, 4, 80) | GAP | at((4, 8), (24, 40), num_classes=10, pos_embed="sincos2d"),
    "vit_test_rope": size(48, 3, 4, 80, mlp="swiglu", act="silu")
    | at((4, 8), (24, 40), num_classes=10, rope=Rope(indexing="xy", offset=1.0, reference_grid=(4, 4)), qkv_fused=False)
    | dict(k_bias=False, attn_norm=True, mlp_norm=True),
    "vit_test_rope_mixed": size(48, 3, 4, 80)
    | at((4, 8), (24, 40), num_classes=10, pos_embed="none", rope=Rope(kind="mixed", temperature=10.0, indexing="xy")),
    "vit_test_dinov3": size(48, 3, 4, 80, num_kv_heads=(4, 2, 1), qkv_fused=False, norm="rmsnorm", qk_norm=True)
    | at((4, 8), (24, 40), num_classes=10, reg_tokens=2, pos_embed="none", dynamic_image_size=True)
    | dict(rope=Rope(kind="centered", temperature=100.0, rotate_half=True, rescale=2.0), layer_scale_init=0.1)
    | dict(attn_only_layer_scale=True),
    "vit_test_dinov3_untied": size(48, 3, 4, 80)
    | at((4, 8), (24, 40), num_classes=10, reg_tokens=2, pos_embed="none", mask_token=True, cls_norm=True)
    | dict(
        rope=Rope(kind="centered", min_period=0.5, max_period=20.0, normalize_coords="max", rotate_half=True),
    ),
    "vit_test_beit": size(48, 3, 4, 80, layer_scale_init=0.1)
    | at((4, 8), (24, 40), num_classes=10, pos_embed="none", rel_pos_bias="block", k_bias=False)
    | dict(global_pool="avg", final_norm=False, fc_norm=True),
    "vit_test_shared_bias": size(48, 3, 4, 80, block="res_post")
    | at((4, 8), (24, 40), num_classes=10, rel_pos_bias="shared", pre_logits_dim=20, head_bias=False),
    "vit_test_conv_stem": size(48, 3, 4, 80)
    | at(4, (24, 40), num_classes=10, stem="conv", stem_convs=((12, 3, 2), (20, 5, 1), (28, 3, 2))),
    "vit_test_hmlp_stem": size(48, 3, 4, 80)
    | at(16, (48, 80), num_classes=10, stem="hmlp", pos_embed_prefix="none", layer_scale_init=0.1),
    "vit_test_token_avg": size(48, 3, 4, 80)
    | DINOV2_REG
    | at((4, 8), (24, 40), num_classes=10, global_pool="token_avg"),
    "vit_test_things": size(48, 3, 4, 80) | THINGS | at((4, 8), (24, 40), num_classes=10),
    "vit_test_scaling": size(48, 3, 4, 80, layer_scale_init=0.1) | XP | at((4, 8), (24, 40), num_classes=10),
    "vit_test_differential": size(48, 3, 4, 80, differential_attention=True, qk_norm=True)
    | at((4, 8), (24, 40), num_classes=10, reg_tokens=2, pos_embed_prefix="class", embed_norm=True),
    "vit_test_scaling_differential": size(48, 3, 4, 80, differential_attention=True, block="parallel_scaling")
    | at((4, 8), (24, 40), num_classes=10, proj_bias=False, norm="rmsnorm"),
    "vit_digits": size(64, 2, 4, 256) | GAP | at(4, 8, num_classes=10, in_chans=1, normalize="gray", crop_pct=1.0),
}
