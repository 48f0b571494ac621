"""The original files of DINOv2, DINOv3, MAE, DeiT and BEiT."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from format_checks import parameters, round_trip, small, without
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats import meta
from parity.checkpoints.formats.meta_names import is_meta
from parity.compare import not_identical
from parity.configs import Config, Preprocessing

IMAGES = Preprocessing(crop_pct=0.875)
WHOLE = Preprocessing(crop_pct=1.0)
HALF = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875)
# Of a published width, so that a lone file shows its heads.
WIDTH = dict(embed_dim=192, num_heads=3, mlp_dim=80, depth=2, image_size=24, patch_size=8)


def of(name: str, **fields: object) -> Config:
    return small(name, **(WIDTH | dict(pos_embed_resize="bicubic", layer_scale_init=None) | fields))


DINOV2 = dict(num_classes=0, layer_scale_init=1e-5, preprocessing=WHOLE)
DINOV3 = dict(num_classes=0, global_pool="token", layer_scale_init=1e-5, image_size=128, preprocessing=WHOLE)
KINDS: dict[str, Config] = {
    "dinov2": of("vit_small_patch14_dinov2", **(DINOV2 | dict(pos_embed_resize="bicubic_offset"))),
    "dinov2 with registers": of(
        "vit_small_patch14_reg4_dinov2",
        **(DINOV2 | dict(pos_embed_prefix="class", pos_embed_resize="bicubic_antialias")),
    ),
    "dinov2 gated": of("vit_giant_patch14_dinov2", **(DINOV2 | dict(pos_embed_resize="bicubic_offset"))),
    "dinov3": of("vit_base_patch16_dinov3_qkvb", **DINOV3),
    "dinov3 gated": of("vit_7b_patch16_dinov3", **DINOV3),
    "mae encoder": of("vit_base_patch16_224", num_classes=0, preprocessing=IMAGES),
    "mae finetuned": of(
        "vit_base_patch16_224", global_pool="avg", final_norm=False, fc_norm=True, preprocessing=IMAGES
    ),
    "deit": of("deit_base_patch16_224", preprocessing=IMAGES),
    "deit distilled": of("deit_base_distilled_patch16_224", preprocessing=IMAGES),
    "deit3": of("deit3_base_patch16_224", layer_scale_init=1e-5, preprocessing=IMAGES),
    "beit": of("beit_base_patch16_224", layer_scale_init=1e-5, preprocessing=HALF),
    "beit shared": of("beit_base_patch16_224", layer_scale_init=1e-5, rel_pos_bias="shared", preprocessing=HALF),
}


def written(kind: str, tmp_path) -> dict[str, np.ndarray]:
    meta.write(tmp_path / "written", KINDS[kind], parameters(KINDS[kind]))
    return load_file(tmp_path / "written" / "model.safetensors")


def lone(tensors: dict[str, np.ndarray], tmp_path):
    save_file(tensors, tmp_path / "file.safetensors")
    return open_checkpoint(tmp_path / "file.safetensors", format="meta")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_as_the_same_model(kind, tmp_path):
    assert round_trip(meta, tmp_path / "directory", KINDS[kind]).config == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_of_a_lone_file(kind, tmp_path):
    """DINOv3's has no size: it is taken at 16 patches."""
    found = lone(written(kind, tmp_path), tmp_path)
    assert found.config == KINDS[kind]
    assert not_identical(dict(found.tensors), parameters(KINDS[kind])) == ()


def test_the_names_of_each_project(tmp_path):
    """Those that differ from the canonical ones, as the original code has them."""
    assert {"register_tokens", "blocks.0.ls1.gamma"} <= set(written("dinov2 with registers", tmp_path))
    assert {"blocks.1.mlp.w12.weight", "blocks.1.mlp.w3.bias"} <= set(written("dinov2 gated", tmp_path))
    dinov3 = written("dinov3", tmp_path)
    assert {"storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.bias_mask"} <= set(dinov3)
    assert dinov3["blocks.0.attn.qkv.bias"].shape == (3 * 192,)
    np.testing.assert_array_equal(dinov3["blocks.0.attn.qkv.bias"][192:384], 0)
    # Equal in the precision of the original files.
    periods = (100 ** (np.arange(16) / 16)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(dinov3["rope_embed.periods"].astype(ml_dtypes.bfloat16), periods)
    assert {f"blocks.0.mlp.w{n}.weight" for n in (1, 2, 3)} <= set(written("dinov3 gated", tmp_path))
    assert {"blocks.0.gamma_1", "blocks.0.gamma_2", "dist_token"} - set(written("deit3", tmp_path)) == {"dist_token"}
    assert "dist_token" in written("deit distilled", tmp_path)
    assert "rel_pos_bias.relative_position_bias_table" in written("beit shared", tmp_path)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("dinov2", {"mask_token": (1, 192)}),
        (
            "mae encoder",
            {"mask_token": (1, 1, 96), "decoder_embed.weight": (96, 192), "decoder_blocks.0.norm1.bias": (96,)},
        ),
        ("beit", {"blocks.0.attn.relative_position_index": (10, 10)}),
        ("beit", {"mask_token": (1, 1, 192), "lm_head.weight": (3, 192)}),
        ("dinov3 gated", {"mask_token": (1, 192), "local_cls_norm.weight": (192,)}),
    ],
)
def test_tensors_of_pretraining_are_ignored_with_their_reasons(kind, extra, tmp_path):
    zeros = {name: np.zeros(shape, np.float32) for name, shape in extra.items()}
    found = lone(written(kind, tmp_path) | zeros, tmp_path)
    assert found.config == KINDS[kind]
    assert set(extra) <= set(found.source["ignored"])
    with pytest.raises(CheckpointError, match=r"unexpected surprise \[3\]"):
        lone(written(kind, tmp_path) | zeros | {"surprise": np.zeros(3, np.float32)}, tmp_path)


def test_a_training_file_with_blocks_in_chunks(tmp_path):
    """DINOv2's: `blocks.CHUNK.NUMBER`, numbered through, behind `backbone.`, and a head besides."""
    tensors = {
        "backbone." + re.sub(r"^blocks\.(\d)\.", r"blocks.\1.\1.", name): value
        for name, value in written("dinov2", tmp_path).items()
    }
    head = {"dino_head.last_layer.weight": np.zeros((3, 3), np.float32)}
    found = lone(tensors | head, tmp_path)
    assert found.config == KINDS["dinov2"]
    assert not_identical(dict(found.tensors), parameters(KINDS["dinov2"])) == ()
    assert open_checkpoint(tmp_path / "file.safetensors").source["format"] == "meta"


def test_a_class_token_that_timm_has_added_its_position_to(tmp_path):
    """DINOv2 has one whatever it is: it is zero then."""
    config = configs.replace(KINDS["dinov2 with registers"], pos_embed_prefix="none")
    tensors = parameters(config)
    meta.write(tmp_path / "directory", config, tensors)
    found = open_checkpoint(tmp_path / "directory")
    assert found.config == KINDS["dinov2 with registers"]
    np.testing.assert_array_equal(found.tensors["pos_embed"][:, 0], 0)
    np.testing.assert_array_equal(found.tensors["pos_embed"][:, 1:], tensors["pos_embed"])
    assert not_identical(without(dict(found.tensors), "pos_embed"), without(tensors, "pos_embed")) == ()


def test_periods_are_checked(tmp_path):
    tensors = written("dinov3", tmp_path)
    periods = tensors["rope_embed.periods"]
    rounded = periods.astype(ml_dtypes.bfloat16)
    assert not np.array_equal(rounded.astype(np.float32), periods)
    found = lone(tensors | {"rope_embed.periods": rounded}, tmp_path)
    assert "checked" in found.source["ignored"]["rope_embed.periods"]
    bent = periods * np.where(np.arange(periods.size) == 7, np.float32(1.01), np.float32(1))
    for wrong in (bent, periods[::-1], periods * np.float32(np.nan), periods * np.float32(np.inf), -periods):
        with pytest.raises(CheckpointError, match=r"rope_embed\.periods: got other periods"):
            lone(tensors | {"rope_embed.periods": np.ascontiguousarray(wrong)}, tmp_path)


def test_the_mask_of_the_bias_is_checked(tmp_path):
    tensors = written("dinov3", tmp_path)
    name = "blocks.1.attn.qkv.bias_mask"
    kept = tensors | {
        "blocks.1.attn.qkv.bias": tensors["blocks.1.attn.qkv.bias"] + np.repeat(np.float32([0, 9, 0]), 192)
    }
    assert not_identical(dict(lone(kept, tmp_path).tensors), parameters(KINDS["dinov3"])) == ()
    for wrong in (np.ones(576, np.float32), np.full(576, np.nan, np.float32), np.zeros(575, np.float32)):
        with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias_mask"):
            lone(tensors | {name: wrong}, tmp_path)
    unmasked = {name: value for name, value in tensors.items() if not name.endswith("bias_mask")}
    found = lone(unmasked, tmp_path)
    assert found.config.k_bias
    np.testing.assert_array_equal(found.tensors["blocks.0.attn.qkv.bias"], tensors["blocks.0.attn.qkv.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: without(given, "blocks.1.norm2.bias"), r"missing blocks\.1\.norm2\.bias \[192\]"),
        (lambda given: given | {"cls_token": np.zeros((1, 2, 192), np.float32)}, "misshapen cls_token"),
        (
            lambda given: without(given, "patch_embed.proj.weight"),
            "no Vision Transformer that is known",
        ),
        (lambda given: given | {"pos_embed": np.zeros((1, 13, 192), np.float32)}, "got 11 positions of patches"),
    ],
)
def test_what_doesnt_fit_is_named(change, message, tmp_path):
    given = change(written("deit distilled", tmp_path))
    with pytest.raises(CheckpointError, match=message):
        lone(given, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {"num_heads": "x"}}', '{"config": {"image_size": null}}'])
def test_a_damaged_document(text, tmp_path):
    meta.write(tmp_path / "directory", KINDS["deit"], parameters(KINDS["deit"]))
    (tmp_path / "directory" / "meta.json").write_text(text)
    with pytest.raises(CheckpointError, match="directory"):
        open_checkpoint(tmp_path / "directory")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("deit_base_patch16_224", dict(norm_eps=1e-5), "norm_eps: got 1e-05, expected 1e-06"),
        ("deit_base_patch16_224", dict(act="gelu_tanh"), "act: got 'gelu_tanh', expected 'gelu'"),
        ("vit_base_patch16_siglip_224", dict(num_classes=0), "can't express this config"),
        (
            "vit_small_patch14_reg4_dinov2",
            dict(num_classes=0, layer_scale_init=1e-5, pos_embed_prefix="all"),
            "image_size: got .* 13 positions of patches",
        ),
        ("eva02_base_patch14_224", dict(num_classes=0), "can't express this config"),
    ],
)
def test_a_model_that_none_of_the_projects_has_isnt_written(name, fields, message, tmp_path):
    config = of(name, **fields)
    with pytest.raises(CheckpointError, match=message):
        meta.write(tmp_path / "directory", config, parameters(config))
    assert list(tmp_path.iterdir()) == []


def test_names_that_timm_has_too_are_metas_in_a_file_of_pytorch(tmp_path):
    assert not is_meta(written("deit", tmp_path))
    for kind in ("dinov2 with registers", "dinov2 gated", "dinov3"):
        assert is_meta(written(kind, tmp_path)), kind
    assert configs.get("deit_base_patch16_224").pos_embed_resize == "bicubic_antialias"
