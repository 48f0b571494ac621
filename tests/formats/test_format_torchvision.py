"""torchvision's names, old and new, and what is written for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from format_checks import parameters, round_trip, small, without
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats import torchvision
from parity.compare import not_identical
from parity.configs import Config

TORCHVISION = dict(norm_eps=1e-6, pos_embed_resize="bicubic_align_corners")


def config_of(**fields: object) -> Config:
    return small("vit_base_patch16_224", **(TORCHVISION | fields))


def lone(tmp_path, **fields):
    """A state dict of a published width, as torchvision publishes it: tensors alone."""
    sizes = dict(embed_dim=192, num_heads=3, mlp_dim=80, depth=1)
    config = config_of(**(sizes | fields))
    torchvision.write(tmp_path / "written", config, parameters(config))
    return config, load_file(tmp_path / "written" / "model.safetensors")


@pytest.mark.parametrize("fields", [{}, dict(pre_logits_dim=36), dict(num_heads=6, image_size=40)])
def test_what_is_written_is_read_as_the_same_model(fields, tmp_path):
    config = config_of(**fields)
    assert round_trip(torchvision, tmp_path / "directory", config).config == config
    arguments = json.loads((tmp_path / "directory" / "torchvision.json").read_text())["arguments"]
    assert (arguments["num_heads"], arguments["representation_size"]) == (config.num_heads, config.pre_logits_dim)


def test_the_names_of_old_files(tmp_path):
    config, tensors = lone(tmp_path)
    renames = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    for new, old in renames.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "old.safetensors")
    found = open_checkpoint(tmp_path / "old.safetensors")
    assert found.source["format"] == "torchvision"
    assert not_identical(dict(found.tensors), parameters(config)) == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (dict(image_size=224, patch_size=32), ("bilinear", 224 / 256)),
        (dict(image_size=384, patch_size=64), ("bicubic", 1.0)),
        (dict(image_size=28, patch_size=14), ("bicubic", 1.0)),
    ],
)
def test_preprocessing_of_a_lone_file_is_that_of_the_published_weights(fields, expected, tmp_path):
    config, tensors = lone(tmp_path, **fields)
    save_file(tensors, tmp_path / "file.safetensors")
    found = open_checkpoint(tmp_path / "file.safetensors").config
    assert (found.preprocessing.interpolation, found.preprocessing.crop_pct) == expected
    assert configs.replace(found, preprocessing=config.preprocessing) == config


def test_a_width_that_isnt_published_needs_a_name(tmp_path):
    config = config_of()
    torchvision.write(tmp_path / "written", config, parameters(config))
    file = tmp_path / "written" / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"embed_dim 48 is none of .*--model NAME"):
        open_checkpoint(file)
    found = open_checkpoint(file, model="vit_test")
    assert found.config.num_heads == 4
    assert open_checkpoint(file, num_heads=4).config.num_heads == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: without(given, "encoder.ln.bias"), r"missing encoder\.ln\.bias"),
        (lambda given: given | {"heads.extra": np.zeros(3, np.float32)}, r"unexpected heads\.extra \[3\]"),
        (lambda given: given | {"class_token": np.zeros((1, 2, 192), np.float32)}, "misshapen class_token"),
        (lambda given: without(given, "heads.head.weight"), r"unexpected heads\.head\.bias"),
    ],
)
def test_what_doesnt_fit_is_named(change, message, tmp_path):
    _, tensors = lone(tmp_path)
    save_file(change(tensors), tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(norm_eps=1e-5), "norm_eps: got 1e-05, expected 1e-06"),
        (dict(act="quick_gelu"), "act: got 'quick_gelu', expected 'gelu'"),
        (dict(class_token=False, global_pool="avg"), "can't express this config"),
        (dict(num_classes=0), "num_classes: got 0"),
        (dict(image_size=(24, 40)), "can't express this config"),
        (dict(pre_norm=True), r"no place for norm_pre\.weight"),
    ],
)
def test_a_model_that_torchvision_doesnt_have_isnt_written(fields, message, tmp_path):
    config = config_of(**fields)
    with pytest.raises(CheckpointError, match=message):
        torchvision.write(tmp_path / "directory", config, parameters(config))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"arguments": 3}'])
def test_a_damaged_document(text, tmp_path):
    config = config_of()
    torchvision.write(tmp_path / "directory", config, parameters(config))
    (tmp_path / "directory" / "torchvision.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"torchvision\.json: "):
        open_checkpoint(tmp_path / "directory")
