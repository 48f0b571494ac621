"""ResNets of timm and torchvision: directories, and files alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from format_checks import parameters, round_trip
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats import timm
from parity.compare import not_identical
from parity.configs.resnet import ResNetConfig


def config_of(name: str = "resnet18", **fields: object) -> ResNetConfig:
    return ResNetConfig.of(configs.get(name, **(dict(depths=(1, 2), num_classes=5) | fields)))


@pytest.mark.parametrize("fields", [{}, dict(in_chans=1), dict(depths=(2, 2, 2, 2)), dict(num_classes=0)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_what_is_written_is_read_as_the_same_model(name, fields, tmp_path):
    config = config_of(name, **fields)
    if config.in_chans == 1:
        config = configs.replace(config, preprocessing=config.preprocessing.grey())
    found = round_trip(timm, tmp_path / "directory", config)
    assert (found.config, found.assumed) == (config, ())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_file_of_torchvisions(name, tmp_path):
    config = config_of(name, width=12)
    tensors = parameters(config)
    counters = {key.replace("running_mean", "num_batches_tracked"): np.asarray(7) for key in tensors if "mean" in key}
    save_file(tensors | counters, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path / "model.safetensors")
    assert configs.replace(found.config, preprocessing=config.preprocessing) == config
    assert not_identical(dict(found.tensors), tensors) == ()
    assert set(counters) <= set(found.source["ignored"])
    assert {item.field for item in found.assumed} == {"norm_eps", "image_size", "preprocessing"}
    named = open_checkpoint(tmp_path / "model.safetensors", model=config)
    assert (named.config, named.assumed) == (config, ())


def test_a_backbone_in_a_larger_file(tmp_path):
    config = config_of(num_classes=0)
    save_file({f"model.backbone.{key}": value for key, value in parameters(config).items()}, tmp_path / "x.safetensors")
    found = open_checkpoint(tmp_path / "x.safetensors")
    assert (found.source["prefix"], found.config.num_classes) == ("model.backbone.", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cardinality=32), r"model_args\.cardinality: got 32, expected 1"),
        (dict(stem_width=32), r"model_args\.stem_width: not supported; did you mean 'stem_type'\?; expected"),
        (dict(channels=[64, 96]), r"model_args\.channels: got \[64, 96\], expected \[64, 128\], each twice"),
    ],
)
def test_arguments_that_make_another_model(arguments, message, tmp_path):
    config = config_of()
    timm.write(tmp_path / "model", config, parameters(config))
    file = tmp_path / "model" / "config.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"model_args": document["model_args"] | arguments}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "model")


def test_what_timm_cant_say(tmp_path):
    for fields, message in ((dict(norm_eps=1e-3), r"norm_eps is 0\.001, not 1e-05"), (dict(width=12), r"width is 12")):
        config = config_of(**fields)
        with pytest.raises(CheckpointError, match=message):
            timm.write(tmp_path / "model", config, parameters(config))
    assert not (tmp_path / "model").exists()


def test_a_statistic_that_is_missing(tmp_path):
    config = config_of()
    timm.write(tmp_path / "model", config, parameters(config))
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["layer2.0.downsample.1.running_var"]
    save_file(tensors, tmp_path / "lone.safetensors")
    with pytest.raises(CheckpointError, match=r"missing layer2\.0\.downsample\.1\.running_var"):
        open_checkpoint(tmp_path / "lone.safetensors")
