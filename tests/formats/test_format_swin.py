"""Swin Transformers in the formats of others: names, what is read of lone files, and what a format can't say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from format_checks import parameters, round_trip
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint, parameter_shapes, write
from parity.checkpoints.formats import huggingface, microsoft, timm, torchvision
from parity.checkpoints.formats.registry import FORMATS
from parity.compare import not_identical
from parity.configs.swin import SwinConfig

FIRST, SECOND = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
SIZES = dict(embed_dim=12, mlp_dim=30, depths=(2, 1, 2), num_heads=(2, 3, 4), window_sizes=(3, 3, 3), num_classes=5)
# Which transformers' image processors can say, too.
SQUASHED = configs.Preprocessing(
    mean=(0.4,) * 3, std=(0.2,) * 3, crop_mode="squash", crop_rounding="down", crop_pct=1.0
)
# As each project runs them; maps of 12 x 12, 6 x 6 and 3 x 3.
OWN = {
    "timm": {},
    "huggingface": dict(window_fit="shrink_both"),
    "torchvision": dict(window_fit="pad"),
    "microsoft": dict(window_fit="shrink_both", rel_pos_resize="bicubic"),
}


def config_of(format: str = "timm", name: str = FIRST, **fields: object) -> SwinConfig:
    own: dict[str, object] = dict(SIZES, image_size=(48, 48)) | OWN[format]
    own |= dict(preprocessing=SQUASHED) if format == "huggingface" else {}
    if format == "huggingface" and name == SECOND:
        own |= dict(window_fit="shrink_height", shift_mask=-200.0)
    return SwinConfig.of(configs.get(name, **(own | fields)))


@pytest.mark.parametrize("name", [FIRST, SECOND])
@pytest.mark.parametrize("module", [timm, huggingface, torchvision, microsoft])
def test_what_is_written_is_read_as_the_same_model(module, name, tmp_path):
    config = config_of(module.__name__.rpartition(".")[2], name)
    found = round_trip(module, tmp_path / "directory", config)
    assert found.config == config
    assert found.assumed == ()


PROJECTS = ["timm", "huggingface", "torchvision", "microsoft"]
CODE = ("window_fit", "shift_mask")


@pytest.mark.parametrize("to", PROJECTS)
@pytest.mark.parametrize("source", PROJECTS)
@pytest.mark.parametrize("name", [FIRST, pytest.param(SECOND, marks=pytest.mark.sweep)])
def test_from_each_to_each(name, source, to, tmp_path):
    """What runs the weights in another way takes them when it is asked to, and not before."""
    config, other = config_of(source, name), config_of(to, name)
    FORMATS[source].write(tmp_path / "theirs", config, parameters(config))
    if any(getattr(config, field) != getattr(other, field) for field in CODE):
        with pytest.raises(CheckpointError, match=r"window_fit(: got| is)"):
            convert(tmp_path / "theirs", tmp_path / "other", to=to)
        assert not (tmp_path / "other").exists()
    convert(tmp_path / "theirs", tmp_path / "other", to=to, numerics=to)
    found = open_checkpoint(tmp_path / "other")
    assert found.source["format"] == to
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    assert [getattr(found.config, field) for field in CODE] == [getattr(other, field) for field in CODE]


def lone(path, format, config, **others):
    """The file of a directory in a format, alone, with more beside it."""
    FORMATS[format].write(path / "directory", config, parameters(config))
    save_file(load_file(path / "directory" / "model.safetensors") | others, path / "lone.safetensors")
    return path / "lone.safetensors"


@pytest.mark.parametrize("format", ["timm", "huggingface", "torchvision", "microsoft"])
def test_a_lone_file_shows_its_sizes(format, tmp_path):
    config = config_of(format, num_classes=7)
    found = open_checkpoint(lone(tmp_path, format, config))
    assert found.source["format"] == format
    sizes = ("version", "embed_dim", "mlp_dim", "depths", "num_heads", "window_sizes", "num_classes", "window_fit")
    assert {size: getattr(found.config, size) for size in sizes} == {size: getattr(config, size) for size in sizes}
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    # The last map, 3 x 3, is one window.
    assert found.config.image_size == (48, 48)
    assert "image_size" in {assumption.field for assumption in found.assumed}
    named = open_checkpoint(tmp_path / "lone.safetensors", model=config)
    assert named.config == config
    assert named.assumed == ()


@pytest.mark.parametrize("format", ["timm", "huggingface", "microsoft"])
def test_windows_of_the_second_version_are_asked_for(format, tmp_path):
    config = config_of(format, SECOND)
    path = lone(tmp_path, format, config)
    with pytest.raises(CheckpointError, match=r"nothing says window_sizes; say it with --set window_sizes="):
        open_checkpoint(path)
    assert open_checkpoint(path, window_sizes=(3, 3, 3)).config.window_sizes == (3, 3, 3)
    assert open_checkpoint(path, model=config).config == config


def test_windows_of_the_second_version_are_in_indices(tmp_path):
    config = config_of("microsoft", SECOND)
    indices = {
        f"layers.{stage}.blocks.{block}.attn.relative_position_index": np.zeros((9, 9), np.int64)
        for stage, depth in enumerate(config.depths)
        for block in range(depth)
    }
    found = open_checkpoint(lone(tmp_path, "microsoft", config, **indices))
    assert found.config.window_sizes == (3, 3, 3)
    assert set(indices) <= set(found.source["ignored"])


def test_the_names_of_timms_old_files(tmp_path):
    """Up to timm 0.8 a stage ended with the merging and the head was one layer, in directories, too."""
    config = config_of()
    tensors = parameters(config)
    old = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts).replace("head.fc", "head")] = value
    timm.write(tmp_path / "directory", config, tensors)
    (tmp_path / "directory" / "model.safetensors").unlink()
    save_file(old, tmp_path / "directory" / "model.safetensors")
    found = open_checkpoint(tmp_path / "directory")
    assert found.config == config
    assert not_identical(dict(found.tensors), tensors) == ()
    # Alone it can't be told from Microsoft's, whose names timm had; with what is said it can.
    assert open_checkpoint(tmp_path / "directory" / "model.safetensors").source["format"] == "microsoft"
    again = open_checkpoint(tmp_path / "directory" / "model.safetensors", format="timm", model=config)
    assert again.config == config


def test_what_training_leaves_is_left_out(tmp_path):
    config = config_of("microsoft")
    directory = tmp_path / "directory"
    microsoft.write(directory, config, parameters(config))
    tensors = load_file(directory / "model.safetensors")
    state = {f"optimizer.state.{i}.exp_avg": value for i, value in enumerate(tensors.values())}
    save_file({f"model.{name}": value for name, value in tensors.items()} | state, tmp_path / "checkpoint.safetensors")
    found = open_checkpoint(tmp_path / "checkpoint.safetensors")
    assert found.source["prefix"] == "model."
    assert not_identical(dict(found.tensors), parameters(config)) == ()


def test_the_key_of_torchvisions_second_version_has_no_bias(tmp_path):
    """Its projections have a bias for the key, which its code sets to 0: whatever is there is no part of the model."""
    config = config_of("torchvision", SECOND)
    torchvision.write(tmp_path / "directory", config, parameters(config))
    tensors = load_file(tmp_path / "directory" / "model.safetensors")
    dim = config.embed_dim
    assert not tensors["features.1.0.attn.qkv.bias"][dim : 2 * dim].any()
    tensors["features.1.0.attn.qkv.bias"][dim : 2 * dim] = 3
    save_file(tensors, tmp_path / "lone.safetensors")
    assert not_identical(dict(open_checkpoint(tmp_path / "lone.safetensors").tensors), parameters(config)) == ()


@pytest.mark.parametrize(
    ("format", "fields", "message"),
    [
        ("torchvision", dict(in_chans=4, preprocessing=configs.Preprocessing()), r"in_chans: got 4, expected 3"),
        ("torchvision", dict(window_sizes=(3, 2, 3)), r"window_sizes: got \(3, 2, 3\), expected \(3, 3, 3\)"),
        ("torchvision", dict(num_classes=0), r"num_classes: got 0, and torchvision's Swin always has a head"),
        ("torchvision", dict(act="silu"), r"act: got 'silu', expected 'gelu'\n--numerics torchvision takes its own"),
        ("microsoft", dict(norm_eps=1e-6), r"norm_eps: got 1e-06, expected 1e-05"),
        ("microsoft", dict(window_fit="pad"), r"window_fit: got 'pad'.*\n--numerics microsoft takes its own"),
        ("huggingface", dict(window_sizes=(3, 3, 2)), r"window_sizes: got \(3, 3, 2\), there \(3, 3, 3\)"),
        ("huggingface", dict(window_sizes=(4, 4, 4)), r"window of stage 2: got \(3, 3\), there \(4, 4\)"),
    ],
)
def test_what_a_format_cant_say(format, fields, message, tmp_path):
    config = config_of(format, **fields)
    with pytest.raises(CheckpointError, match=message):
        FORMATS[format].write(tmp_path / "directory", config, parameters(config))
    assert not (tmp_path / "directory").exists()


def test_a_file_of_another_family(tmp_path):
    path = lone(tmp_path, "microsoft", config_of("microsoft"))
    with pytest.raises(CheckpointError, match=r"the file is a Swin Transformer; leave the model's name out, or name"):
        open_checkpoint(path, model="vit_tiny_patch16_224")


def test_a_table_of_no_window(tmp_path):
    config = config_of()
    tensors = parameters(config)
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    save_file(tensors | {name: tensors[name][:20]}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.blocks\.0\.attn\..*: got 20 relative positions, expected"):
        open_checkpoint(tmp_path / "file.safetensors")


def test_another_window_than_the_named_models(tmp_path):
    """The tables say which windows a file has, whatever the named model's are."""
    config = config_of("microsoft", window_sizes=(4, 4, 3), image_size=(48, 48))
    found = open_checkpoint(lone(tmp_path, "timm", config_of(window_sizes=(4, 4, 3))), model=config_of())
    assert found.config.window_sizes == (4, 4, 3)
    assert found.tensors.shapes() == parameter_shapes(config)


def test_a_native_file_goes_to_each(tmp_path):
    config = config_of(window_fit="shrink_both")
    write(tmp_path / "native", config, parameters(config))
    convert(tmp_path / "native", tmp_path / "theirs", to="huggingface")
    document = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert document["architectures"] == ["SwinForImageClassification"]
    with pytest.raises(ValueError, match=r"to: got 'google', which has no models of family 'swin'; expected native or"):
        convert(tmp_path / "native", tmp_path / "x.npz", to="google")
