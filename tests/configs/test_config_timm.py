"""Every registered model against timm's entries: constructor arguments and parameter counts, without a framework.

`tests/data/timm_entries.jsonl` holds, for each pretrained tag of timm 1.0.31, `timm_swin_entries.jsonl` of its Swin
Transformers, and `timm_pvt_entries.jsonl` of its PVTs, what timm's own `create_model` passed to the constructor and how
many parameters came of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity import configs
from parity.checkpoints import parameter_count

DATA = Path(__file__).parents[1] / "data"


def read(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / file).read_text().splitlines()]


ENTRIES, SWIN_ENTRIES = read("timm_entries.jsonl"), read("timm_swin_entries.jsonl")
PVT_ENTRIES = read("timm_pvt_entries.jsonl")
MOBILEVIT_ENTRIES = read("timm_mobilevit_entries.jsonl")
ARCHITECTURES = {entry["name"].split(".")[0] for entry in (*ENTRIES, *SWIN_ENTRIES, *PVT_ENTRIES, *MOBILEVIT_ENTRIES)}

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


def constructor_arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer; the distilled class passes most of them on."""
    arguments = dict(entry["kwargs"])
    return arguments.pop("kwargs", {}) | arguments


def at_the_size_of(entry: dict[str, Any]) -> configs.Config:
    """Our config with the classes and the image size of an entry."""
    arguments = constructor_arguments(entry)
    return configs.get(
        entry["name"].split(".")[0], num_classes=arguments["num_classes"], image_size=arguments["img_size"]
    )


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


@pytest.mark.parametrize("entry", SWIN_ENTRIES, ids=[entry["name"] for entry in SWIN_ENTRIES])
def test_fields_and_parameter_count_of_swin(entry):
    """Of SwinTransformer and SwinTransformerV2; every argument is read."""
    config, arguments = at_the_size_of(entry), dict(entry["kwargs"])
    take, dim, windows = arguments.pop, entry["kwargs"]["embed_dim"], entry["kwargs"]["window_size"]
    expected = dict(
        version=2 if entry["class"] == "SwinTransformerV2" else 1,
        image_size=tuple(take("img_size")),
        patch_size=(take("patch_size", 4),) * 2,
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dim=take("embed_dim"),
        mlp_dim=int(dim * take("mlp_ratio", 4.0)),
        depths=tuple(take("depths")),
        num_heads=tuple(take("num_heads")),
        window_sizes=tuple(windows) if isinstance(take("window_size"), list) else (windows,) * 4,
        trained_windows=tuple(take("pretrained_window_sizes", ())),
        window_fit="shrink",
        act="gelu",
        norm_eps=1e-5,
    )
    assert arguments == {}
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]
    if configs.hub_ids(entry["name"].split(".")[0])[0] == f"timm/{entry['name']}":
        images = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(config.preprocessing).items()
        }
        assert {name: images[name] for name in entry["images"]} == entry["images"]


@pytest.mark.parametrize("entry", PVT_ENTRIES, ids=[entry["name"] for entry in PVT_ENTRIES])
def test_fields_and_parameter_count_of_pvt(entry):
    """Of PyramidVisionTransformerV2; every argument is read."""
    config, arguments = configs.get(entry["name"].split(".")[0]), dict(entry["kwargs"])
    take, dims = arguments.pop, entry["kwargs"]["embed_dims"]
    ratios = take("mlp_ratios", (8, 8, 4, 4))
    expected = dict(
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dims=tuple(take("embed_dims")),
        mlp_dims=tuple(dim * ratio for dim, ratio in zip(dims, ratios, strict=True)),
        depths=tuple(take("depths")),
        num_heads=tuple(take("num_heads")),
        sr_ratios=(8, 4, 2, 1),
        linear=take("linear", False),
        norm_eps=1e-6,
        embed_norm_eps=1e-5,
    )
    assert arguments == {}
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]
    images = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(config.preprocessing).items()
    }
    assert {name: images[name] for name in entry["images"]} == entry["images"]


@pytest.mark.parametrize("entry", MOBILEVIT_ENTRIES, ids=[entry["name"] for entry in MOBILEVIT_ENTRIES])
def test_fields_and_parameter_count_of_mobilevit(entry):
    """Of ByobNet; every argument is read."""
    config, take = at_the_size_of(entry), dict(entry["kwargs"]).pop
    stages = [[dict(block) for block in stage] for stage in take("blocks")]
    second = entry["name"].startswith("mobilevitv2")
    dims, depths, inner, blocks = [], [], [], []
    for number, stage in enumerate(stages):
        assert [block.pop("s") for block in stage] == [2 if number else 1, *[1] * (len(stage) - 1)]
        residual, *rest = stage
        dim, ratio = residual.pop("c"), residual.pop("br")
        assert ratio == config.expand_ratio
        dims.append(dim)
        depths.append(residual.pop("d"))
        assert residual == dict(type="bottle", gs=1, bottle_in=True, linear_out=True)
        inner.append(rest[0].pop("transformer_dim", dim // 2) if rest else 0)
        blocks.append(rest[0].pop("transformer_depth") if rest else 0)
        groups = dict(gs=1, br=0.5) if second else dict(br=1.0)
        kind = dict(type="mobilevit2" if second else "mobilevit", d=1, c=dim, patch_size=2)
        assert rest == ([kind | groups] if rest else [])
    expected = dict(
        version=2 if second else 1,
        image_size=tuple(entry["kwargs"]["img_size"]),
        in_chans=entry["kwargs"]["in_chans"],
        num_classes=entry["kwargs"]["num_classes"],
        stem_dim=entry["kwargs"]["stem_chs"],
        dims=tuple(dims),
        depths=tuple(depths),
        transformer_dims=tuple(inner),
        transformer_depths=tuple(blocks),
        mlp_dims=tuple(2 * dim for dim in inner),
        num_heads=1 if second else 4,
        out_dim=entry["kwargs"]["num_features"],
        act=entry["kwargs"]["act_layer"],
        norm_eps=1e-5,
        transformer_norm_eps=1e-5,
        patch_fit="align_corners" if second else "bilinear",
    )
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]
    if configs.hub_ids(entry["name"].split(".")[0])[0] == f"timm/{entry['name']}":
        assert images_of(config, entry) == entry["images"]


def images_of(config, entry):
    images = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(config.preprocessing).items()
    }
    return {name: images[name] for name in entry["images"]}


def test_the_comparison_can_fail():
    entry = next(entry for entry in ENTRIES if entry["name"].startswith("vit_base_patch32_clip_224"))
    config = configs.replace(at_the_size_of(entry), norm_eps=1e-6)
    assert config.norm_eps != fields(entry)["norm_eps"]
    with pytest.raises(ValueError, match="this test doesn't read"):
        fields(entry | {"kwargs": entry["kwargs"] | {"rotary": True}})
