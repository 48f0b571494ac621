"""Every flat ViT against timm's entries: constructor arguments and parameter counts, without a framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from timm_entries import ARCHITECTURES, ENTRIES, at_the_size_of, constructor_arguments

from parity import configs
from parity.checkpoints import parameter_count

# No config without its parameter count: the models that timm lacks. A change here changes what a test model is.
NOT_IN_TIMM = {
    "vit_digits": 102_090,
    "vit_test": 59_002,
    "vit_test_beit": 58_882,
    "vit_test_clip": 59_050,
    "vit_test_conv_stem": 68_662,
    "vit_test_differential": 59_374,
    "vit_test_dinov3": 51_610,
    "vit_test_dinov3_untied": 57_754,
    "vit_test_dist": 59_588,
    "vit_test_gap": 58_474,
    "vit_test_hmlp_stem": 57_538,
    "vit_test_map": 75_776,
    "vit_test_reg_scale": 59_434,
    "vit_test_rope": 71_386,
    "vit_test_rope_mixed": 57_658,
    "vit_test_scaling": 58_258,
    "vit_test_scaling_differential": 58_342,
    "vit_test_shared_bias": 60_100,
    "vit_test_sincos": 57_466,
    "vit_test_swiglu": 70_762,
    "vit_test_things": 111_802,
    "vit_test_token_avg": 59_914,
}

ACTIVATIONS = {None: "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "nn.SiLU": "silu"}
GATED = "partial(mlp.GluMlp, act_layer=nn.SiLU, gate_last=False)"
NORMS = {
    None: ("layernorm", 1e-6),
    "partial(norm.LayerNorm, eps=1e-05)": ("layernorm", 1e-5),
    "norm.RmsNorm": ("rmsnorm", 1e-6),
    "rmsnorm": ("rmsnorm", 1e-6),
    "partial(norm.RmsNorm, eps=1e-05)": ("rmsnorm", 1e-5),
    "partial(norm.RmsNorm, eps=1e-06)": ("rmsnorm", 1e-6),
}
BLOCKS = {
    None: ("pre_norm", False),
    "vision_transformer.ResPostBlock": ("res_post", False),
    "vision_transformer.ParallelThingsBlock": ("parallel_things", False),
    "vision_transformer.ParallelScalingBlock": ("parallel_scaling", False),
    "vision_transformer.DiffParallelScalingBlock": ("parallel_scaling", True),
}
ROPES = {"cat": "axial", "dinov3": "centered", "mixed": "mixed"}


def fields(entry: dict[str, Any]) -> dict[str, Any]:
    """What timm's constructors make of an entry's arguments, as our fields; every argument is read."""
    arguments = constructor_arguments(entry)
    take = arguments.pop
    kind = {"Eva": eva_fields, "Beit": beit_fields}.get(entry["class"], vit_fields)
    dim, size, patch = take("embed_dim"), take("img_size"), take("patch_size", 16)
    expected = dict(
        image_size=tuple(size) if isinstance(size, list) else (size, size),
        patch_size=(patch, patch),
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dim=dim,
        depth=take("depth"),
        num_heads=take("num_heads"),
        layer_scale_init=take("init_values", None),
        dynamic_image_size=take("dynamic_img_size", False),
    )
    norm, eps = NORMS[take("norm_layer", None)]
    expected |= dict(norm=norm, norm_eps=eps) | kind(entry, take, dim, int(dim * take("mlp_ratio", 4.0)))
    if expected["block"] == "res_post":
        expected["layer_scale_init"] = None  # at most a start value of the norms there
    if arguments:
        raise ValueError(f"{entry['name']}: this test doesn't read {sorted(arguments)}")
    return expected


def vit_fields(entry: dict[str, Any], take: Callable[..., Any], dim: int, hidden: int) -> dict[str, Any]:
    """Of VisionTransformer and its distilled class (timm/models/vision_transformer.py, deit.py)."""
    pool, has_final_norm, pre_norm = take("global_pool", "token"), take("final_norm", True), take("pre_norm", False)
    has_fc_norm = take("fc_norm", None)
    has_fc_norm = pool == "avg" if has_fc_norm is None else has_fc_norm
    mlp = {None: "mlp", GATED: "swiglu_packed", "mlp.SwiGLU": "swiglu"}[take("mlp_layer", None)]
    block, differential = BLOCKS[take("block_fn", None)]
    bias = take("proj_bias", True)
    return dict(
        mlp_dim=hidden // 2 if mlp == "swiglu_packed" else hidden,
        mlp=mlp,
        act=ACTIVATIONS[take("act_layer", None)],
        block=block,
        differential_attention=take("attn_layer", None) == "diff" or differential,
        qkv_bias=take("qkv_bias", True),
        k_bias=True,
        proj_bias=bias,
        mlp_bias=bias,
        patch_bias=not pre_norm,
        qk_norm=take("qk_norm", False),
        attn_norm=take("scale_attn_norm", False),
        mlp_norm=take("scale_mlp_norm", False),
        embed_norm=take("embed_norm_layer", None) is not None,
        pre_norm=pre_norm,
        final_norm=has_final_norm and not has_fc_norm,
        fc_norm=has_final_norm and has_fc_norm,
        class_token=take("class_token", True),
        dist_token=entry["class"] == "VisionTransformerDistilled",
        reg_tokens=take("reg_tokens", 0),
        pos_embed="learned",
        pos_embed_prefix="none" if take("no_embed_class", False) else "all",
        rope=None,
        rel_pos_bias="none",
        global_pool=pool,
        pool_include_prefix=take("pool_include_prefix", False),
    )


def eva_fields(entry: dict[str, Any], take: Callable[..., Any], dim: int, hidden: int) -> dict[str, Any]:
    """Of Eva (timm/models/eva.py)."""
    pool, pre_norm = take("global_pool", "avg"), take("use_pre_transformer_norm", False)
    has_fc_norm = take("use_fc_norm", None)
    has_fc_norm = pool == "avg" if has_fc_norm is None else has_fc_norm
    has_final_norm = take("use_post_transformer_norm", None)
    gated, mlp_norm, multiple = take("swiglu_mlp", False), take("scale_mlp", False), take("swiglu_align_to", 0)
    split = gated and bool(mlp_norm or multiple)
    heads = entry["kwargs"]["num_heads"]
    kv_heads = take("num_kv_heads", None)
    plain_heads = kv_heads is None or set(kv_heads) == {heads}
    qkv_bias = take("qkv_bias", True)
    learned = take("use_abs_pos_emb", True)
    without_prefix = take("no_embed_class", False)
    pool_heads, pool_ratio = take("attn_pool_num_heads", None), take("attn_pool_mlp_ratio", None)
    return dict(
        mlp_dim=hidden + (-hidden % multiple if multiple else 0),
        mlp=("swiglu" if split else "swiglu_packed") if gated else "mlp",
        act="silu" if gated else "gelu",
        block="res_post" if take("use_post_norm", False) else "pre_norm",
        num_kv_heads=None if plain_heads else tuple(kv_heads),
        qkv_fused=take("qkv_fused", True),
        qkv_bias=qkv_bias,
        k_bias=take("attn_type", "eva") == "rope" or not qkv_bias,
        patch_bias=not pre_norm,
        qk_norm=take("qk_norm", False),
        attn_norm=take("scale_attn_inner", False),
        mlp_norm=mlp_norm,
        pre_norm=pre_norm,
        final_norm=not has_fc_norm if has_final_norm is None else has_final_norm,
        fc_norm=has_fc_norm,
        class_token=take("class_token", True),
        reg_tokens=take("num_reg_tokens", 0),
        pos_embed="learned" if learned else "none",
        pos_embed_prefix="none" if without_prefix and learned else "all",
        rope=eva_rope(take),
        global_pool=pool,
        pool_include_prefix=pool == "map",  # timm's Eva pools over all tokens
        attn_pool_heads=pool_heads,
        attn_pool_mlp_dim=None if pool_ratio is None else int(dim * pool_ratio),
        attn_only_layer_scale=take("attn_only_layer_scale", False),
    )


def eva_rope(take: Callable[..., Any]) -> configs.Rope | None:
    """Of Eva; what a kind of RoPE doesn't take is left out, as timm does."""
    kind = ROPES[take("rope_type", "cat")]
    values = dict(
        temperature=float(take("rope_temperature", 10_000.0)),
        offset=take("rope_grid_offset", 0.0),
        indexing=take("rope_grid_indexing", "ij"),
        reference_grid=take("ref_feat_shape", None),
        rotate_half=take("rope_rotate_half", False),
        rescale=take("rope_rescale_coords", None),
    )
    values["reference_grid"] = tuple(values["reference_grid"] or ()) or None
    assert kind == "axial" or values["reference_grid"] is None
    return configs.Rope(kind=kind, **values) if take("use_rot_pos_emb", False) else None


def beit_fields(entry: dict[str, Any], take: Callable[..., Any], dim: int, hidden: int) -> dict[str, Any]:
    """Of Beit (timm/models/beit.py)."""
    return dict(
        mlp_dim=hidden,
        act="gelu",
        block="pre_norm",
        qkv_bias=True,
        k_bias=False,
        final_norm=False,
        fc_norm=True,
        global_pool="avg",
        pos_embed="learned" if take("use_abs_pos_emb", True) else "none",
        rel_pos_bias="block" if take("use_rel_pos_bias", False) else "none",
    )


# As torchvision publishes them, too.
RESNETS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


@pytest.mark.parametrize("name", RESNETS)
def test_parameter_count_of_resnets(name):
    assert parameter_count(configs.get(name)) == RESNETS[name]


def test_every_registered_model_is_counted():
    assert sorted(ARCHITECTURES | set(NOT_IN_TIMM) | set(RESNETS)) == configs.names()
    assert not ARCHITECTURES & set(NOT_IN_TIMM)


@pytest.mark.parametrize("name", NOT_IN_TIMM)
def test_parameter_count_of_models_that_timm_lacks(name):
    assert parameter_count(configs.get(name)) == NOT_IN_TIMM[name]


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_fields_and_parameter_count(entry):
    config = at_the_size_of(entry)
    expected = fields(entry)
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]


def test_the_comparison_can_fail():
    entry = next(entry for entry in ENTRIES if entry["name"].startswith("vit_base_patch32_clip_224"))
    config = configs.replace(at_the_size_of(entry), norm_eps=1e-6)
    assert config.norm_eps != fields(entry)["norm_eps"]
    with pytest.raises(ValueError, match="this test doesn't read"):
        fields(entry | {"kwargs": entry["kwargs"] | {"rotary": True}})
