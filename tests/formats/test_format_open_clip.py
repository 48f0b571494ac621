"""open_clip's directories and lone files: image towers of its own and of timm."""

from __future__ import annotations

import json

import numpy as np
import pytest
from format_checks import parameters, round_trip, small, without
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats import open_clip
from parity.checkpoints.formats.open_clip_config import understood
from parity.configs import Config, Preprocessing

IMAGES = configs.get("vit_base_patch32_clip_448").preprocessing
VISION = dict(width=48, head_width=12, layers=2, image_size=24, patch_size=8)


def native(**fields: object) -> Config:
    """A tower of open_clip's own."""
    return small("vit_base_patch32_clip_224", head_bias=False, preprocessing=IMAGES, **fields)


def document(vision: dict, **model: object) -> dict:
    return {"model_cfg": {"embed_dim": 10, "vision_cfg": VISION | vision} | model}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(act="quick_gelu"),
        dict(act="gelu_tanh", norm_eps=1e-6),
        dict(layer_scale_init=1e-4, mlp_dim=209),
        dict(pre_norm=False, global_pool="avg", final_norm=False, fc_norm=True),
        dict(qk_norm=True, attn_norm=True, mlp_norm=True),
        dict(image_size=(24, 40), patch_size=(8, 4)),
        dict(preprocessing=Preprocessing(crop_mode="squash", crop_pct=1.0, interpolation="bilinear")),
        dict(preprocessing=Preprocessing(crop_mode="border", crop_pct=1.0, fill=0)),
    ],
)
def test_a_tower_of_its_own_is_read_as_it_was_written(fields, tmp_path):
    config = configs.replace(native(), **fields)
    found = round_trip(open_clip, tmp_path / "directory", config)
    assert found.config == config
    assert sorted(file.name for file in (tmp_path / "directory").iterdir()) == [open_clip.DOCUMENT, open_clip.WEIGHTS]


@pytest.mark.parametrize(
    ("vision", "model", "expected"),
    [
        ({}, {}, {}),
        ({}, dict(quick_gelu=True), dict(act="quick_gelu")),
        (dict(norm_kwargs={"eps": 1e-6}, act_kwargs={"approximate": "tanh"}), {}, dict(norm_eps=1e-6, act="gelu_tanh")),
        (dict(pool_type="avg"), {}, dict(global_pool="avg")),
        (dict(mlp_ratio=4.3637), {}, dict(mlp_dim=209)),
        (dict(image_size=27), {}, dict(image_size=27, drop_partial_patches=True)),
        (dict(output_tokens=True, patch_dropout=0.5), dict(text_cfg={"width": 512}), {}),
    ],
)
def test_what_the_fields_mean(vision, model, expected):
    config, name = understood(document(vision, **model))
    assert config == configs.replace(native(), **(dict(mlp_dim=192) | expected))
    assert name == ""


@pytest.mark.parametrize(
    ("name", "vision", "expected"),
    [
        ("vit_base_patch16_siglip_224", dict(timm_pool="map", timm_proj="none"), dict(num_classes=0)),
        ("vit_base_patch32_clip_224", dict(timm_pool="token", timm_proj=None), dict(num_classes=10)),
        ("vit_medium_patch16_gap_256", dict(timm_pool="", image_size=256), dict(num_classes=10, head_bias=False)),
        (
            "vit_medium_patch16_gap_256.sw_in12k",
            dict(timm_pool="avg", timm_proj="linear", timm_proj_bias=True, image_size=256),
            dict(num_classes=10),
        ),
    ],
)
def test_towers_of_timm(name, vision, expected):
    config, found = understood({"model_cfg": {"embed_dim": 10, "vision_cfg": {"timm_model_name": name} | vision}})
    assert config == configs.get(found, preprocessing=IMAGES, **expected)
    assert found == name.partition(".")[0]


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        (dict(attentional_pool=True), r"vision_cfg\.attentional_pool: no model here has it"),
        (dict(scale_heads=True), r"vision_cfg\.scale_heads"),
        (dict(pool_type="none"), r"vision_cfg\.pool_type: got 'none'"),
        (dict(layers=[3, 4, 6, 3]), r"vision_cfg\.layers: got \[3, 4, 6, 3\], a ResNet"),
        (dict(mlp_ration=3.0), "unknown field 'mlp_ration'; did you mean 'mlp_ratio'"),
        (dict(timm_model_name="convnext_base"), "unknown model 'convnext_base'"),
        (dict(timm_model_name="vit_base_patch16_siglip_224", timm_pool="avg", image_size=224), r"timm_pool: got 'avg'"),
        (dict(timm_model_name="vit_medium_patch16_gap_256", image_size=224), r"vision_cfg\.image_size: got 224"),
        (
            dict(timm_model_name="vit_medium_patch16_gap_256", image_size=256, timm_proj="mlp"),
            r"vision_cfg\.timm_proj: got 'mlp'",
        ),
        (dict(width="768"), ""),
    ],
)
def test_what_no_model_here_has_is_named(vision, message, tmp_path):
    directory = tmp_path / "directory"
    open_clip.write(directory, native(), parameters(native()))
    (directory / open_clip.DOCUMENT).write_text(json.dumps(document(vision)))
    with pytest.raises(CheckpointError, match=rf"open_clip_config\.json: .*{message}"):
        open_checkpoint(directory)


def test_a_document_that_isnt_one(tmp_path):
    open_clip.write(tmp_path / "directory", native(), parameters(native()))
    for text in ("{", "[]", "{}", '{"model_cfg": {"embed_dim": 3}}', '{"model_cfg": 3}'):
        (tmp_path / "directory" / open_clip.DOCUMENT).write_text(text)
        with pytest.raises(CheckpointError, match=r"open_clip_config\.json: "):
            open_checkpoint(tmp_path / "directory")


def test_the_text_tower_is_ignored_with_that_reason(tmp_path):
    directory = tmp_path / "directory"
    open_clip.write(directory, native(), parameters(native()))
    text = {
        name: np.zeros(2, np.float32)
        for name in ("logit_scale", "positional_embedding", "text_projection", "token_embedding.weight")
    }
    text |= {f"transformer.resblocks.0.{name}": np.zeros(2, np.float32) for name in ("ln_1.weight", "mlp.c_fc.bias")}
    weights = directory / open_clip.WEIGHTS
    save_file(load_file(weights) | text, weights)
    ignored = open_checkpoint(directory).source["ignored"]
    assert sorted(ignored) == sorted(text)
    assert all("text tower" in reason for reason in ignored.values())
    save_file(load_file(weights) | {"visual.extra": np.zeros(3, np.float32)}, weights)
    with pytest.raises(CheckpointError, match=r"unexpected visual\.extra \[3\]"):
        open_checkpoint(directory)
    save_file(without(load_file(weights), "visual.extra") | {"visual.proj": np.zeros((47, 10), np.float32)}, weights)
    with pytest.raises(CheckpointError, match=r"misshapen visual\.proj: got \[47, 10\], expected \[48, 10\]"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("name", "num_classes", "bias"), [("vit_test_map", 0, True), ("vit_test", 10, True), ("vit_test", 10, False)]
)
def test_a_tower_of_timm_is_read_as_it_was_written(name, num_classes, bias, tmp_path):
    config = configs.get(name, num_classes=num_classes, head_bias=bias, preprocessing=IMAGES)
    found = round_trip(open_clip, tmp_path / "directory", config, name=name)
    assert (found.config, found.name) == (config, name)
    names = load_file(tmp_path / "directory" / open_clip.WEIGHTS)
    assert ("visual.head.proj.weight" in names) == (not bias)
    (tmp_path / "directory" / open_clip.DOCUMENT).unlink()
    found = open_checkpoint(tmp_path / "directory" / open_clip.WEIGHTS, model=name)
    assert configs.replace(found.config, preprocessing=IMAGES) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(qkv_bias=False), "qkv_bias: got False, expected True"),
        (dict(num_classes=0), "neither open_clip nor timm"),
        (dict(reg_tokens=2), r"(no place for reg_token|reg_tokens: got 2)"),
    ],
)
def test_a_model_that_open_clip_doesnt_have_isnt_written(fields, message, tmp_path):
    config = configs.replace(native(), **fields)
    if not config.num_classes:
        config = configs.replace(config, patch_bias=True, embed_dim=44)
    with pytest.raises(CheckpointError, match=message):
        open_clip.write(tmp_path / "directory", config, parameters(config))
    assert list(tmp_path.iterdir()) == []
