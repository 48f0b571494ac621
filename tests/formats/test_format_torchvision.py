"""torchvision's names, old and new, and what is written for it."""

from __future__ import annotations

import json
import re

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


# Strides of 2 at kernels of 3 x 3, which is what a lone file is taken for.
CONVS = ((12, 3, 2), (20, 3, 2), (28, 3, 2))
OTHER_CONVS = ((12, 3, 2), (20, 5, 1), (28, 2, 2))


@pytest.mark.parametrize("convs", [CONVS, OTHER_CONVS])
def test_a_convolutional_stem(convs, tmp_path):
    patch = 8 if convs == CONVS else 4
    config = config_of(stem="conv", stem_convs=convs, patch_size=patch)
    assert round_trip(torchvision, tmp_path / "directory", config).config == config
    arguments = json.loads((tmp_path / "directory" / "torchvision.json").read_text())["arguments"]
    assert [tuple(entry.values()) for entry in arguments["conv_stem_configs"]] == list(convs)
    assert set(arguments["conv_stem_configs"][0]) == {"out_channels", "kernel_size", "stride"}
    names = set(load_file(tmp_path / "directory" / "model.safetensors"))
    assert {"conv_proj.conv_bn_relu_2.0.weight", "conv_proj.conv_bn_relu_0.1.running_var"} < names
    assert {name for name in names if "conv_last" in name} == {
        "conv_proj.conv_last.weight",
        "conv_proj.conv_last.bias",
    }


def test_the_strides_of_a_lone_file(tmp_path):
    config, tensors = lone(tmp_path, stem="conv", stem_convs=CONVS)
    counters = {f"conv_proj.conv_bn_relu_{i}.1.num_batches_tracked": np.asarray(7) for i in range(3)}
    save_file(tensors | counters, tmp_path / "file.safetensors")
    found = open_checkpoint(tmp_path / "file.safetensors")
    assert configs.replace(found.config, preprocessing=config.preprocessing) == config
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    assert set(counters) <= set(found.source["ignored"])
    said = {item.field: str(item) for item in found.assumed}
    assert said["stem_convs"].startswith("stem_convs [[12,3,2],[20,3,2],[28,3,2]]: strides of 2")
    again = open_checkpoint(tmp_path / "file.safetensors", stem_convs=[list(conv) for conv in CONVS])
    assert again.config == found.config
    assert "stem_convs" not in {item.field for item in again.assumed}


@pytest.mark.parametrize(
    ("convs", "patch", "said", "message"),
    [
        (OTHER_CONVS, 4, {}, r"strides .* --set stem_convs=\[\[12,3,STRIDE\],\[20,5,STRIDE\],\[28,2,STRIDE\]\]"),
        (CONVS, 8, dict(patch_size=4), r"the tensors don't show the strides"),
        (CONVS, 8, dict(patch_size=4, stem_convs=CONVS), r"patch_size: got \(4, 4\), expected \(8, 8\)"),
        (
            CONVS,
            8,
            dict(stem_convs=OTHER_CONVS),
            r"stem_convs: got channels and kernels \[\[12, 3\], \[20, 5\], .*file",
        ),
        (CONVS, 8, dict(stem_convs="x"), r"stem_convs: got 'x', expected \(channels, kernel, stride\)"),
    ],
)
def test_strides_that_have_to_be_said(convs, patch, said, message, tmp_path):
    _, tensors = lone(tmp_path, stem="conv", stem_convs=convs, patch_size=patch)
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "file.safetensors", **said)
    assert open_checkpoint(tmp_path / "file.safetensors", stem_convs=convs).config.stem_convs == convs


@pytest.mark.parametrize("missing", ["conv_last.weight", "conv_bn_relu_1.0.weight", "conv_bn_relu_1.1.running_mean"])
def test_a_part_of_the_stem_that_isnt_there(missing, tmp_path):
    _, tensors = lone(tmp_path, stem="conv", stem_convs=CONVS)
    save_file(without(tensors, f"conv_proj.{missing}"), tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=rf"missing conv_proj\.{re.escape(missing)}"):
        open_checkpoint(tmp_path / "file.safetensors")


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
        (lambda given: given | {"heads.extra": np.zeros(3, np.float32)}, r"head: got heads\.extra \[3\]"),
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
        (dict(mask_token=True), r"no place for mask_token"),
        (dict(cls_norm=True), r"no place for cls_norm\.weight"),
        (dict(stem="conv", stem_convs=((12, 3, 8),), stem_norm_eps=1e-3), r"stem_norm_eps: got 0\.001, expected 1e-05"),
        (dict(stem="hmlp", image_size=48, patch_size=16), r"can't express this config"),
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
