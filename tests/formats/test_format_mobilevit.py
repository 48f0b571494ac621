"""MobileViTs in the formats of others: names, and what is read of lone files."""

from __future__ import annotations

import json
import re

import pytest
from format_checks import parameters, round_trip
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint, parameter_shapes
from parity.checkpoints.formats import timm
from parity.compare import not_identical
from parity.configs.mobilevit import MobileVitConfig

FIRST = dict(
    dims=(8, 16, 24),
    depths=(1, 2, 1),
    transformer_dims=(0, 0, 16),
    transformer_depths=(0, 0, 2),
    mlp_dims=(0, 0, 40),
    stem_dim=12,
    num_classes=5,
)
SIZES = {"mobilevit_s": FIRST | dict(out_dim=28), "mobilevitv2_100": FIRST}


def config_of(name: str = "mobilevit_s", **fields: object) -> MobileVitConfig:
    return MobileVitConfig.of(configs.get(name, **(SIZES[name] | fields)))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("mobilevit_xxs", {}),
        ("mobilevit_xxs", dict(num_classes=7, act="relu", image_size=(96, 130))),
        ("mobilevit_xxs", dict(out_dim=40, stem_dim=24, drop_path_rate=0.1, num_classes=0)),
        ("mobilevitv2_050", dict(num_classes=3)),
    ],
)
def test_what_is_written_is_read_as_the_same_model(name, fields, tmp_path):
    config = configs.get(name, **fields)
    found = round_trip(timm, tmp_path / "directory", config)
    assert (found.config, found.assumed) == (config, ())


def test_what_timm_cant_say(tmp_path):
    for fields, message in (
        (dict(dims=(8, 16, 32)), r"dims is \(8, 16, 32\), not \(32, 64, 96, 128, 160\)"),
        (dict(SIZES["mobilevit_s"] | dict(patch_size=(2, 3))), r"patch_size is \(2, 3\), not \(2, 2\)"),
    ):
        config = config_of(**fields)
        with pytest.raises(CheckpointError, match=message):
            timm.write(tmp_path / "model", config, parameters(config))
    config = configs.get("mobilevit_xxs", patch_fit="zeros", norm_eps=1e-3)
    with pytest.raises(
        CheckpointError, match=r"norm_eps is 0\.001, not 1e-05, patch_fit is 'zeros', .*--numerics timm"
    ):
        timm.write(tmp_path / "model", config, {})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(output_stride=16), r"model_args\.output_stride: got 16, expected 32"),
        (dict(stem_ch=32), r"model_args\.stem_ch: not supported; did you mean 'stem_chs'\?; expected"),
        (dict(act_layer="mish"), r"act: got 'mish', expected"),
    ],
)
def test_arguments_that_make_another_model(arguments, message, tmp_path):
    config = configs.get("mobilevit_xxs", num_classes=2)
    timm.write(tmp_path / "model", config, parameters(config))
    file = tmp_path / "model" / "config.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"model_args": document["model_args"] | arguments}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("fields", [{}, dict(qkv_bias=False, expand_ratio=3.0), dict(num_classes=0, in_chans=1)])
@pytest.mark.parametrize("name", SIZES)
def test_a_lone_file_shows_its_sizes(name, fields, tmp_path):
    fields = {key: value for key, value in fields.items() if name == "mobilevit_s" or key != "qkv_bias"}
    config = config_of(name, **fields)
    if config.in_chans == 1:
        config = configs.replace(config, preprocessing=config.preprocessing.grey())
    tensors = parameters(config)
    save_file(tensors, tmp_path / "lone.safetensors")
    found = open_checkpoint(tmp_path / "lone.safetensors")
    assert found.config == config
    assert not_identical(dict(found.tensors), tensors) == ()
    said = {item.field for item in found.assumed}
    assert {"patch_size", "patch_fit", "act", "norm_eps", "image_size"} <= said
    named = open_checkpoint(tmp_path / "lone.safetensors", model=config)
    assert (named.config, named.assumed) == (config, ())
    other = open_checkpoint(tmp_path / "lone.safetensors", patch_fit="zeros")
    assert other.config == configs.replace(config, patch_fit="zeros")


def test_a_tensor_that_is_missing(tmp_path):
    tensors = parameters(config_of())
    for name in ("stages.2.1.conv_fusion.bn.running_var", "stages.1.1.conv2_kxk.conv.weight"):
        save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "less.safetensors")
        with pytest.raises(CheckpointError, match=rf"missing {re.escape(name)}"):
            open_checkpoint(tmp_path / "less.safetensors")


INSIDE = {
    1: {
        "conv_kxk.conv": "local_rep.conv_3x3.block.conv",
        "conv_kxk.bn": "local_rep.conv_3x3.block.norm",
        "conv_1x1": "local_rep.conv_1x1.block.conv",
        "norm": "global_rep.2",
        "norm1": "pre_norm_mha.0",
        "attn.qkv": "pre_norm_mha.1.qkv_proj",
        "attn.proj": "pre_norm_mha.1.out_proj",
        "norm2": "pre_norm_ffn.0",
        "mlp.fc1": "pre_norm_ffn.1",
        "mlp.fc2": "pre_norm_ffn.4",
        "head.fc": "classifier.fc",
    },
    2: {
        "conv_kxk.conv": "local_rep.0.block.conv",
        "conv_kxk.bn": "local_rep.0.block.norm",
        "conv_1x1": "local_rep.1.block.conv",
        "norm": "global_rep.2",
        "norm1": "pre_norm_attn.0",
        "attn.qkv_proj": "pre_norm_attn.1.qkv_proj.block.conv",
        "attn.out_proj": "pre_norm_attn.1.out_proj.block.conv",
        "norm2": "pre_norm_ffn.0",
        "mlp.fc1": "pre_norm_ffn.1.block.conv",
        "mlp.fc2": "pre_norm_ffn.3.block.conv",
        "head.fc": "classifier.1",
    },
}
OUTSIDE = {"stem": "conv_1", "final_conv": "conv_1x1_exp", "conv_fusion": "fusion", "conv_proj": "conv_proj"} | {
    "conv1_1x1": "block.exp_1x1",
    "conv2_kxk": "block.conv_3x3",
    "conv3_1x1": "block.red_1x1",
}


def original(name: str, version: int) -> str:
    """By the names of the authors' code."""
    name, last = name.rsplit(".", 1)
    parts = re.fullmatch(r"(?:stages\.(\d)\.(\d)\.)?(?:transformer\.(\d)\.)?(.+)", name)
    assert parts is not None
    stage, block, layer, rest = parts.groups()
    if rest in INSIDE[version]:
        rest = INSIDE[version][rest]
    else:
        conv, part = rest.rsplit(".", 1)
        rest = f"{OUTSIDE[conv]}.block.{'norm' if part == 'bn' else part}"
    rest = rest if layer is None else f"global_rep.{layer}.{rest}"
    return f"{rest}.{last}" if stage is None else f"layer_{int(stage) + 1}.{block}.{rest}.{last}"


@pytest.mark.parametrize("name", SIZES)
def test_the_authors_own_files(name, tmp_path):
    config = config_of(name)
    tensors = parameters(config)
    theirs = {original(key, config.version): value for key, value in tensors.items()}
    assert len(theirs) == len(tensors)
    save_file(theirs, tmp_path / "original.safetensors")
    found = open_checkpoint(tmp_path / "original.safetensors")
    assert found.source["format"] == "timm"
    assert found.config == config
    assert not_identical(dict(found.tensors), tensors) == ()
    less = {key: value for key, value in theirs.items() if "global_rep.2.bias" not in key}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"missing .*norm\.bias"):
        open_checkpoint(tmp_path / "less.safetensors")


def test_a_larger_image_needs_no_other_tensors(tmp_path):
    config = configs.get("mobilevit_xxs", num_classes=4)
    timm.write(tmp_path / "model", config, parameters(config))
    convert(tmp_path / "model", tmp_path / "larger", image_size=(90, 40), num_classes=3)
    found = open_checkpoint(tmp_path / "larger")
    assert (found.config.image_size, found.config.num_classes) == ((90, 40), 3)
    assert {name: value.shape for name, value in found.tensors.items()} == parameter_shapes(found.config)


def test_what_a_directory_holds(tmp_path):
    config = configs.get("mobilevit_xxs")
    timm.write(tmp_path / "model", config, parameters(config))
    assert set(load_file(tmp_path / "model" / "model.safetensors")) == set(parameter_shapes(config))
    document = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (document["architecture"], document["num_features"]) == ("mobilevit_xxs", 320)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_heads=3), r"num_heads: got 3, expected a divisor of \(0, 0, 16\)"),
        (dict(mlp_dims=(0, 0, 0)), r"mlp_dims: got \(0, 0, 0\), expected for each of the 3 stages a positive integer"),
        (dict(transformer_dims=(0, 8, 16)), r"transformer_dims: got \(0, 8, 16\), expected"),
        (dict(patch_fit="zeros", patch_size=(40, 2)), r"patch_size: got \(40, 2\), expected at most the sides"),
        (dict(dims=(8, 16)), r"dims: got \(8, 16\), expected a positive integer for each of the 3 stages"),
    ],
)
def test_fields_that_make_no_model(fields, message):
    with pytest.raises(ValueError, match=message):
        config_of(**fields)
