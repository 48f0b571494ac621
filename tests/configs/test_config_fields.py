"""Validation, derived values and names of configs."""

from __future__ import annotations

import dataclasses

import pytest

from parity import configs
from parity.configs import Execution, Preprocessing, Rope, VitConfig
from parity.configs.augmentation import Augmentation

BAD_FIELDS = [
    ({"image_size": (224, 225)}, r"^image_size: got \(224, 225\), expected multiples of patch_size \(16, 16\)$"),
    ({"patch_size": 15}, r"^image_size: got \(224, 224\), expected multiples of patch_size \(15, 15\)$"),
    (
        {"image_size": 8, "drop_partial_patches": True},
        r"^image_size: got \(8, 8\), expected multiples of patch_size \(16, 16\)$",
    ),
    ({"image_size": (1, 2, 3)}, r"^image_size: got \(1, 2, 3\), expected one positive integer or a pair"),
    ({"patch_size": 0}, r"^patch_size: got 0, expected one positive integer or a pair \(height, width\)$"),
    ({"num_heads": 5}, r"^num_heads: got 5, expected a divisor of embed_dim 768$"),
    ({"depth": 0}, r"^depth: got 0, expected a positive integer$"),
    ({"mlp_dim": -1}, r"^mlp_dim: got -1, expected a positive integer$"),
    ({"num_classes": -1}, r"^num_classes: got -1, expected 0 or a positive integer$"),
    ({"reg_tokens": -1}, r"^reg_tokens: got -1, expected 0 or a positive integer$"),
    ({"drop_rate": 1.0}, r"^drop_rate: got 1.0, expected a value in \[0, 1\)$"),
    ({"drop_path_rate": -0.1}, r"^drop_path_rate: got -0.1, expected a value in \[0, 1\)$"),
    ({"attn_drop_rate": 2}, r"^attn_drop_rate: got 2, expected a value in \[0, 1\)$"),
    ({"norm_eps": 0.0}, r"^norm_eps: got 0.0, expected a value above 0$"),
    ({"act": "relu"}, r"^act: got 'relu', expected one of gelu, gelu_tanh, quick_gelu, silu$"),
    ({"mlp": "glu"}, r"^mlp: got 'glu', expected one of mlp, swiglu, swiglu_packed$"),
    ({"block": "post"}, r"^block: got 'post', expected one of pre_norm, res_post, parallel_things, parallel_scaling$"),
    ({"norm": "batch"}, r"^norm: got 'batch', expected one of layernorm, rmsnorm$"),
    ({"pre_logits_dim": 0}, r"^pre_logits_dim: got 0, expected a positive integer, or none$"),
    ({"attn_pool_heads": 5}, r"^attn_pool_heads: got 5, expected a divisor of embed_dim 768$"),
    ({"num_kv_heads": (12,) * 11}, r"^num_kv_heads: got .* expected a divisor of num_heads 12 for each of 12 blocks$"),
    ({"num_kv_heads": (5,) * 12}, r"^num_kv_heads: got .* expected a divisor of num_heads 12 for each of 12 blocks$"),
    ({"num_kv_heads": (4,) * 12}, r"^qkv_fused: got True, expected false with num_kv_heads$"),
    ({"rope": Rope(), "num_heads": 128}, r"^embed_dim / num_heads: got 6, expected a multiple of 4 with rotary"),
    ({"rel_pos_bias": "block", "reg_tokens": 2}, r"^rel_pos_bias: got 'block', expected a class token alone with it$"),
    ({"rope": Rope(), "block": "parallel_things"}, r"^rope: got Rope\(.*\), expected None in this block$"),
    ({"differential_attention": True, "k_bias": False}, r"^k_bias: got False, expected True in this block$"),
    ({"differential_attention": True, "block": "res_post"}, r"^block: got 'res_post', expected another with"),
    ({"block": "res_post", "layer_scale_init": 0.1}, r"^layer_scale_init: got 0.1, expected none in res_post blocks$"),
    ({"block": "parallel_scaling", "mlp": "swiglu"}, r"^mlp: got 'swiglu', expected 'mlp' in parallel_scaling blocks$"),
    ({"pos_embed": "rope"}, r"^pos_embed: got 'rope', expected one of learned, sincos2d, "),
    ({"pos_embed_resize": "nearest"}, r"^pos_embed_resize: got 'nearest', expected one of bicubic_antialias, "),
    ({"global_pool": "max"}, r"^global_pool: got 'max', expected one of token, avg, token_avg, map, none$"),
    ({"class_token": False}, r"^global_pool: got 'token', expected class_token=True with it$"),
    (
        {"class_token": False, "dist_token": True, "global_pool": "avg"},
        r"^dist_token: got True, expected class_token=True with it$",
    ),
    ({"dist_token": True, "global_pool": "avg"}, r"^global_pool: got 'avg', expected 'token' with dist_token$"),
    ({"cls_norm": True, "final_norm": False}, r"^cls_norm: got True, expected false without final_norm$"),
    (
        {"cls_norm": True, "class_token": False, "global_pool": "avg"},
        r"^cls_norm: got True, expected false without prefix tokens$",
    ),
    ({"global_pool": "none"}, r"^num_classes: got 1000, expected 0 with global_pool='none'$"),
    (
        {"pos_embed": "sincos2d", "embed_dim": 6, "num_heads": 1},
        r"^embed_dim: got 6, expected a multiple of 4 with sin-cos positions$",
    ),
    ({"stem": "resnet"}, r"^stem: got 'resnet', expected one of patch, conv, hmlp, mci, bit$"),
    ({"stem": "conv"}, r"^stem_convs: got \(\), expected one or more \(channels, kernel, stride\) with stem 'conv'$"),
    ({"stem_convs": ((8, 3, 2),)}, r"^stem_convs: got \(\(8, 3, 2\),\), expected none with stem 'patch'$"),
    ({"stem_convs": 3}, r"^stem_convs: got 3, expected \(channels, kernel, stride\) each, positive integers$"),
    ({"stem_convs": [[8, 3]]}, r"^stem_convs: got \[\[8, 3\]\], expected \(channels, kernel, stride\) each, positive"),
    (
        {"stem_convs": [[8, 3, True]]},
        r"^stem_convs: got \[\[8, 3, True\]\], expected \(channels, kernel, stride\) each",
    ),
    (
        {"stem": "conv", "stem_convs": ((8, 3, 8),)},
        r"^patch_size: got \(16, 16\), expected \(8, 8\), the stride of stem",
    ),
    (
        {"stem": "conv", "stem_convs": ((8, 3, 16), (9, 2, 1))},
        r"^stem_convs: got .*, expected odd kernels where the str",
    ),
    (
        {"stem": "conv", "stem_convs": ((8, 3, 16),), "drop_partial_patches": True},
        r"^drop_partial_patches: got True, expected false with stem 'conv'",
    ),
    ({"stem": "hmlp", "patch_size": 8}, r"^patch_size: got \(8, 8\), expected \(16, 16\), the stride of stem 'hmlp'$"),
    ({"stem": "hmlp", "embed_dim": 766, "num_heads": 1}, r"^embed_dim: got 766, expected a multiple of 4 with stem 'h"),
    ({"stem": "mci", "patch_size": 8}, r"^patch_size: got \(8, 8\), expected \(16, 16\), the stride of stem 'mci'$"),
    ({"stem_depths": (1,)}, r"^stem_depths: got \(1,\), expected none with stem 'patch'$"),
    ({"stem": "bit", "stem_depths": (0,)}, r"^stem_depths: got \(0,\), expected positive numbers of blocks"),
    (
        {"stem": "bit", "stem_depths": (1, 1, 1, 1)},
        r"^patch_size: got \(16, 16\), expected multiples of 32, by which the stem's map is smaller than the image$",
    ),
    ({"stem": "bit", "stem_conv_eps": 0.0}, r"^stem_conv_eps: got 0.0, expected a value above 0$"),
    (
        {"stem": "bit", "drop_partial_patches": True},
        r"^drop_partial_patches: got True, expected false with stem 'bit'$",
    ),
    ({"stem_norm_eps": 0.0}, r"^stem_norm_eps: got 0.0, expected a value above 0$"),
    ({"in_chans": 4}, r"^preprocessing.mean: got 3 channels, expected 1 or 4$"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=[",".join(fields) for fields, _ in BAD_FIELDS])
def test_a_bad_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        VitConfig(**fields)
    with pytest.raises(ValueError, match=message):
        configs.get("vit_base_patch16_224", **fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preprocessing(std=(0.5,)), r"^mean and std: got 3 and 1 channels"),
        (lambda: Preprocessing(std=(0.5, 0.0, 0.5)), r"^std: got \(0.5, 0.0, 0.5\), expected values above 0$"),
        (lambda: Preprocessing(crop_pct=1.5), r"^crop_pct: got 1.5, expected a value in \(0, 1\]$"),
        (lambda: Execution(attention="flash"), r"^attention: got 'flash', expected 'fused' or 'reference'$"),
        (lambda: Execution(remat="all"), r"^remat: got 'all', expected 'none', 'block' or 'dots'$"),
        (lambda: Augmentation(random_resized_crop=(0.5, 0.1)), r"^random_resized_crop: got \(0.5, 0.1\)"),
        (lambda: Augmentation(shift=-1), r"^shift: got -1, expected 0 or more pixels$"),
        (lambda: Augmentation(rotate=181.0), r"^rotate: got 181.0, expected 0 to 180 degrees$"),
    ],
)
def test_what_goes_with_a_config_is_validated_too(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_model_has_a_close_match():
    with pytest.raises(
        ValueError, match=r"^unknown model 'vit_smal_patch16_224'; did you mean 'vit_small_patch16_224'"
    ):
        configs.get("vit_smal_patch16_224")
    with pytest.raises(ValueError, match=r"^unknown model 'mamba'; `vit-parity models` lists all of them$"):
        configs.get("mamba")


def test_an_unknown_field_has_a_close_match():
    with pytest.raises(ValueError, match=r"^unknown config field 'num_class'; did you mean 'num_classes'\?$"):
        configs.get("vit_tiny_patch16_224", num_class=10)
    with pytest.raises(ValueError, match=r"^unknown config field 'zzz'$"):
        configs.replace(VitConfig(), zzz=1)


def test_names_match_shell_patterns():
    assert configs.names("vit_tiny_patch16_??4") == ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]
    assert configs.names("no such model") == []
    everything = configs.names()
    assert everything == sorted(set(everything))
    assert len(everything) > 100


def test_overrides_replace_fields_and_nothing_else():
    config = configs.get("vit_tiny_patch16_224", num_classes=10, image_size=(32, 48))
    assert (config.num_classes, config.image_size, config.grid_size, config.num_patches) == (10, (32, 48), (2, 3), 6)
    assert configs.replace(config, num_classes=1000, image_size=224) == configs.get("vit_tiny_patch16_224")


def test_configs_are_frozen_hashable_values():
    one, other = configs.get("vit_test"), configs.get("vit_test", num_classes=10)
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, configs.get("vit_test", num_classes=11)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.depth = 5
    with pytest.raises(TypeError):
        VitConfig((224, 224))


def test_lists_become_the_same_value_as_tuples():
    convs = {"stem": "conv", "patch_size": 4}
    assert VitConfig(stem_convs=[[8, 3, 4]], **convs) == VitConfig(stem_convs=((8, 3, 4),), **convs)
    assert VitConfig(image_size=[32, 48]) == VitConfig(image_size=(32, 48))
    assert hash(VitConfig(image_size=[32, 48])) == hash(VitConfig(image_size=(32, 48)))


def test_drop_path_rises_linearly_from_nothing_to_its_rate():
    assert VitConfig(drop_path_rate=0.5, depth=5).drop_path_rates == (0.0, 0.125, 0.25, 0.375, 0.5)
    assert VitConfig(drop_path_rate=0.5, depth=1).drop_path_rates == (0.0,)
    assert VitConfig(depth=3).drop_path_rates == (0.0, 0.0, 0.0)


def test_derived_values():
    config = configs.get("vit_test_reg_scale")
    assert config.grid_size == (6, 5)
    assert config.num_patches == 30
    assert config.num_prefix_tokens == 5
    assert config.head_dim == 12
    assert configs.get("vit_test_dist").num_prefix_tokens == 2
    assert configs.get("vit_test_gap").num_prefix_tokens == 0


@pytest.mark.parametrize("name", configs.names())
def test_the_name_of_a_registered_config_gives_that_config(name):
    config = configs.get(name)
    assert configs.get(configs.name_of(config)) == config
    rates = config.own_rates({"drop_path_rate": 0.3})
    changed = configs.replace(config, **rates)
    same = dict(image_size=config.image_size, num_classes=config.num_classes, **rates)
    assert configs.get(configs.name_of(changed), **same) == changed


def test_the_name_says_nothing_of_input_and_classes_and_everything_of_the_architecture():
    assert configs.name_of(configs.get("vit_test_dist", num_classes=7, image_size=(40, 24))) == "vit_test_dist"
    assert configs.name_of(configs.get("vit_test", embed_dim=96)) == ""
    assert configs.name_of(configs.get("vit_test", norm_eps=1e-5)) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "polar"}, r"^rope.kind: got 'polar', expected one of axial, centered, mixed$"),
        ({"indexing": "yx"}, r"^rope.indexing: got 'yx', expected one of ij, xy$"),
        ({"temperature": 0}, r"^rope.temperature: got 0, expected a value above 0$"),
        ({"temperature": float("inf")}, r"^rope.temperature: got inf, expected a finite number$"),
        (
            {"kind": "centered", "min_period": 1.0},
            r"^rope.max_period: got None, expected both min_period and max_period",
        ),
        (
            {"kind": "centered", "max_period": 1.0},
            r"^rope.min_period: got None, expected both min_period and max_period",
        ),
        (
            {"kind": "centered", "min_period": -1.0, "max_period": 1.0},
            r"^rope.min_period: got -1.0, expected a value abov",
        ),
        ({"min_period": 1.0, "max_period": 9.0}, r"^rope.min_period: got 1.0, expected None with kind 'axial'$"),
        ({"normalize_coords": "max"}, r"^rope.normalize_coords: got 'max', expected 'separate' with kind 'axial'$"),
        (
            {"kind": "centered", "normalize_coords": "mean"},
            r"^rope.normalize_coords: got 'mean', expected one of separate",
        ),
        ({"rescale": 0.5}, r"^rope.rescale: got 0.5, expected 1 or more, or none$"),
        ({"reference_grid": (4, 0)}, r"^rope.reference_grid: got \(4, 0\), expected positive patches down and across"),
    ],
)
def test_a_bad_field_of_rope_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Rope(**change)


def test_shortened_keeps_the_first_blocks():
    config = VitConfig(depth=4, num_kv_heads=(12, 6, 6, 3), qkv_fused=False)
    assert config.shortened(2) == VitConfig(depth=2, num_kv_heads=(12, 6), qkv_fused=False)
    assert config.shortened(9) == config
