"""PVT v2 and SegFormer's encoder in the formats of others: names, and what is read of lone files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from format_checks import parameters, round_trip
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint, parameter_shapes
from parity.checkpoints.formats import huggingface, timm
from parity.compare import not_identical
from parity.configs.pvt import PvtConfig

SIZES = dict(
    embed_dims=(12, 24, 36),
    mlp_dims=(30, 50, 40),
    depths=(2, 1, 2),
    num_heads=(1, 2, 3),
    sr_ratios=(4, 3, 1),
    num_classes=5,
    image_size=(60, 52),
)
SQUASHED = configs.Preprocessing(
    mean=(0.4,) * 3, std=(0.2,) * 3, crop_mode="squash", crop_rounding="down", crop_pct=1.0
)
# As each project runs them.
OWN: dict[str, dict[str, object]] = {
    "timm": {},
    "pvt_v2": dict(embed_norm_eps=1e-6, preprocessing=SQUASHED, mlp_dims=(36, 48, 36)),
    "segformer": dict(norm_eps=1e-5, preprocessing=SQUASHED, image_size=(224, 224), mlp_dims=(36, 48, 36)),
}
# Of a model with one epsilon of 1e-5 PvtV2 has the class, unless it came from another.
SEGFORMER = dict(architecture="SegformerForImageClassification", model_type="segformer")
MODULES = {"timm": timm, "pvt_v2": huggingface, "segformer": huggingface}


def config_of(kind: str = "timm", **fields: object) -> PvtConfig:
    return PvtConfig.of(configs.get("pvt_v2_b2", **(SIZES | OWN[kind] | fields)))


@pytest.mark.parametrize("fields", [{}, dict(linear=True), dict(qkv_bias=False), dict(mlp_dims=(12, 24, 36))])
@pytest.mark.parametrize("kind", ["timm", "pvt_v2"])
def test_what_is_written_is_read_as_the_same_model(kind, fields, tmp_path):
    config = config_of(kind, **fields)
    found = round_trip(MODULES[kind], tmp_path / "directory", config)
    assert found.config == config
    assert found.assumed == ()


def test_segformer(tmp_path):
    """Its `config.json` says neither the epsilons nor the image size."""
    config = config_of("segformer")
    found = round_trip(huggingface, tmp_path / "directory", config, source=SEGFORMER)
    assert found.config == config
    document = json.loads((tmp_path / "directory" / "config.json").read_text())
    assert document["architectures"] == ["SegformerForImageClassification"]
    assert (document["mlp_ratios"], document["strides"]) == ([3, 2, 1], [4, 2, 2])
    with pytest.raises(CheckpointError, match=r"mlp_dims: got \(30, 50, 40\), there \(24, 48, 36\)"):
        huggingface.write(tmp_path / "other", config_of(), parameters(config_of()))
    config = config_of("pvt_v2", embed_norm_eps=1e-5)
    with pytest.raises(CheckpointError, match=r"embed_norm_eps: got 1e-05, there 1e-06\n--numerics huggingface takes"):
        huggingface.write(tmp_path / "other", config, parameters(config))


def lone(path, kind, config):
    source = {"source": SEGFORMER} if kind == "segformer" else {}
    MODULES[kind].write(path / "directory", config, parameters(config), **source)
    tensors = load_file(path / "directory" / "model.safetensors")
    save_file(tensors, path / "lone.safetensors")
    return path / "lone.safetensors"


@pytest.mark.parametrize("kind", OWN)
def test_a_lone_file_shows_its_sizes(kind, tmp_path):
    config = config_of(kind)
    found = open_checkpoint(lone(tmp_path, kind, config))
    assert configs.replace(found.config, image_size=config.image_size, preprocessing=config.preprocessing) == config
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    said = {item.field for item in found.assumed}
    assert {"num_heads", "image_size"} <= said
    named = open_checkpoint(tmp_path / "lone.safetensors", model=config)
    assert (named.config, named.assumed) == (config, ())
    other = open_checkpoint(tmp_path / "lone.safetensors", num_heads=(2, 4, 6))
    assert other.config.num_heads == (2, 4, 6)


def test_the_linear_variant_is_seen_in_its_kernels(tmp_path):
    config = config_of(linear=True)
    found = open_checkpoint(lone(tmp_path, "timm", config))
    assert found.config.linear
    assert not_identical(dict(found.tensors), parameters(config)) == ()


def original(tensors):
    """By the names of the authors' code."""
    found = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "patch_embed":
            parts[0] = "patch_embed1"
        elif parts[0] == "stages":
            stage = int(parts[1]) + 1
            kind = {"downsample": f"patch_embed{stage}", "blocks": f"block{stage}", "norm": f"norm{stage}"}[parts[2]]
            parts = [kind, *parts[3:]]
        found[".".join(parts).replace("dwconv", "dwconv.dwconv")] = value
    return found


def test_the_authors_own_files(tmp_path):
    config = config_of()
    tensors = parameters(config)
    names = original(tensors)
    assert {"block1.0.mlp.dwconv.dwconv.weight", "norm3.bias", "patch_embed2.proj.weight"} < set(names)
    save_file({f"state_dict.{name}": value for name, value in names.items()}, tmp_path / "original.safetensors")
    found = open_checkpoint(tmp_path / "original.safetensors")
    assert (found.source["format"], found.source["prefix"]) == ("timm", "state_dict.")
    assert not_identical(dict(found.tensors), tensors) == ()
    assert (found.config.norm_eps, found.config.embed_norm_eps) == (1e-6, 1e-5)
    save_file({key: value for key, value in names.items() if key != "norm2.bias"}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"missing"):
        open_checkpoint(tmp_path / "less.safetensors")


def test_from_one_to_another(tmp_path):
    config = config_of("pvt_v2")
    huggingface.write(tmp_path / "theirs", config, parameters(config))
    with pytest.raises(CheckpointError, match=r"embed_norm_eps is 1e-06, not 1e-05; --numerics timm takes its own"):
        convert(tmp_path / "theirs", tmp_path / "timm", to="timm")
    convert(tmp_path / "theirs", tmp_path / "timm", to="timm", numerics="timm")
    convert(tmp_path / "timm", tmp_path / "back", to="huggingface", numerics="huggingface")
    found = open_checkpoint(tmp_path / "back")
    assert (found.config, found.source["architecture"]) == (config, "PvtV2ForImageClassification")
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    with pytest.raises(
        ValueError, match=r"to: got 'microsoft', which has no models of family 'pvt'; expected native,? or|expected"
    ):
        convert(tmp_path / "theirs", tmp_path / "x", to="microsoft")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch_sizes=[7, 5, 3]), r"patch_sizes: got \[7, 5, 3\], expected \[7, 3, 3\]"),
        (dict(strides=[2, 2, 2]), r"strides: got \[2, 2, 2\], expected \[4, 2, 2\]"),
        (dict(num_attention_heads=[5, 2, 3]), r"num_heads: got \(5, 2, 3\), expected divisors of the widths"),
        (dict(hidden_act="mish"), r"hidden_act: got 'mish', expected one of"),
    ],
)
def test_a_document_that_cant_be(changes, message, tmp_path):
    config = config_of("pvt_v2")
    huggingface.write(tmp_path / "model", config, parameters(config))
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "model")


def test_timms_arguments(tmp_path):
    config = config_of()
    timm.write(tmp_path / "model", config, parameters(config))
    file = tmp_path / "model" / "config.json"
    document = json.loads(file.read_text())
    assert document["model_args"]["mlp_ratios"] == [30.5 / 12, 50.5 / 24, 40.5 / 36]
    file.write_text(json.dumps(document | {"model_args": document["model_args"] | {"sr_ratio": 2}}))
    with pytest.raises(CheckpointError, match=r"model_args\.sr_ratio: not supported; did you mean 'sr_ratios'\?"):
        open_checkpoint(tmp_path / "model")


def test_a_larger_image_needs_no_other_tensors(tmp_path):
    config = config_of()
    timm.write(tmp_path / "model", config, parameters(config))
    convert(tmp_path / "model", tmp_path / "larger", image_size=(90, 40), num_classes=3)
    found = open_checkpoint(tmp_path / "larger")
    assert (found.config.image_size, found.config.num_classes) == ((90, 40), 3)
    assert {name: value.shape for name, value in found.tensors.items()} == parameter_shapes(found.config)
    with pytest.raises(ValueError, match=r"sr_ratios: got \(4, 3, 1\), expected at most the sides of the maps"):
        convert(tmp_path / "model", tmp_path / "small", image_size=12)
    assert np.array_equal(found.tensors["stages.1.norm.bias"], parameters(config)["stages.1.norm.bias"])
