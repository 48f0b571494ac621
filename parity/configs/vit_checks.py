"""Which fields of a flat Vision Transformer go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fields import expect, shown
from .stem import check_stem

if TYPE_CHECKING:
    from .vit import VitConfig

# A file may ask for any number of blocks, and counting their tensors would take as long as it says.
_MAX_DEPTH = 1024
# What only the plain attention of plain blocks can do, and the value that means that it isn't asked for.
_PLAIN_ONLY = {
    "qkv_fused": True,
    "k_bias": True,
    "rope": None,
    "rel_pos_bias": "none",
    "attn_only_layer_scale": False,
}


def check_numbers(config: VitConfig) -> None:
    """Raises ValueError, naming the field, for a number out of its range; types are those of the fields already."""
    for name in ("in_chans", "embed_dim", "depth", "num_heads", "mlp_dim"):
        expect(getattr(config, name) >= 1, name, repr(getattr(config, name)), "a positive integer")
    expect(config.depth <= _MAX_DEPTH, "depth", config.depth, f"at most {_MAX_DEPTH}")
    for name in ("num_classes", "reg_tokens"):
        expect(getattr(config, name) >= 0, name, repr(getattr(config, name)), "0 or a positive integer")
    for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        expect(0 <= getattr(config, name) < 1, name, repr(getattr(config, name)), "a value in [0, 1)")
    for name in ("attn_pool_heads", "attn_pool_mlp_dim", "pre_logits_dim"):
        value = getattr(config, name)
        expect(value is None or value >= 1, name, repr(value), "a positive integer, or none")
    for name in ("norm_eps", "stem_norm_eps"):
        expect(getattr(config, name) > 0, name, repr(getattr(config, name)), "a value above 0")


def check_shapes(config: VitConfig) -> None:
    """Raises ValueError, naming the field, where the fields don't make a model."""
    check_stem(config)
    for image, patch in zip(config.image_size, config.patch_size, strict=True):
        fits = image >= patch if config.drop_partial_patches else image % patch == 0
        expect(fits, "image_size", config.image_size, f"multiples of patch_size {config.patch_size}")
    heads = f"a divisor of embed_dim {config.embed_dim}"
    expect(config.embed_dim % config.num_heads == 0, "num_heads", config.num_heads, heads)
    if config.global_pool in ("token", "token_avg"):
        expect(config.class_token, "global_pool", repr(config.global_pool), "class_token=True with it")
    if config.global_pool == "token_avg":
        expect(not config.fc_norm, "fc_norm", True, "false with global_pool='token_avg'")
    expect(config.class_token or not config.dist_token, "dist_token", True, "class_token=True with it")
    if config.dist_token:
        expect(config.global_pool == "token", "global_pool", repr(config.global_pool), "'token' with dist_token")
    if config.cls_norm:
        expect(config.final_norm, "cls_norm", True, "false without final_norm")
        expect(config.num_prefix_tokens > 0, "cls_norm", True, "false without prefix tokens")
    if config.global_pool == "none":
        expect(config.num_classes == 0, "num_classes", config.num_classes, "0 with global_pool='none'")
    _check_attention(config)
    if config.pos_embed.startswith("sincos2d"):
        expect(config.embed_dim % 4 == 0, "embed_dim", config.embed_dim, "a multiple of 4 with sin-cos positions")
    channels = len(config.preprocessing.mean)
    expect(channels in (1, config.in_chans), "preprocessing.mean", f"{channels} channels", f"1 or {config.in_chans}")


def _check_attention(config: VitConfig) -> None:
    pool_heads = config.attn_pool_heads or config.num_heads
    heads = f"a divisor of embed_dim {config.embed_dim}"
    expect(config.embed_dim % pool_heads == 0, "attn_pool_heads", config.attn_pool_heads, heads)
    if config.num_kv_heads is not None:
        divides = [n >= 1 and config.num_heads % n == 0 for n in config.num_kv_heads]
        expected = f"a divisor of num_heads {config.num_heads} for each of {config.depth} blocks"
        expect(len(divides) == config.depth and all(divides), "num_kv_heads", shown(config.num_kv_heads), expected)
        expect(not config.qkv_fused, "qkv_fused", True, "false with num_kv_heads")
    if config.rope is not None:
        width = "a multiple of 4 with rotary positions"
        expect(config.head_dim % 4 == 0, "embed_dim / num_heads", config.head_dim, width)
    if config.rel_pos_bias != "none":
        expect(config.num_prefix_tokens == 1, "rel_pos_bias", repr(config.rel_pos_bias), "a class token alone with it")
        expect(not config.dynamic_image_size, "dynamic_image_size", True, "false with rel_pos_bias")
    plain = not config.differential_attention and config.block in ("pre_norm", "res_post")
    for name, unused in _PLAIN_ONLY.items():
        value = getattr(config, name)
        expect(plain or value == unused, name, repr(value), f"{unused!r} in this block")
    if config.differential_attention:
        expect(config.head_dim % 2 == 0, "embed_dim / num_heads", config.head_dim, "an even number")
        expect(config.block != "res_post", "block", "'res_post'", "another with differential attention")
    if config.block == "res_post":
        expect(config.layer_scale_init is None, "layer_scale_init", config.layer_scale_init, "none in res_post blocks")
    if config.block == "parallel_scaling":
        expect(config.mlp == "mlp", "mlp", repr(config.mlp), "'mlp' in parallel_scaling blocks")
