"""Files of transformers as people have them, made without it: alone, wrapped, renamed, fine-tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_files import CONFIG, NAMES, WEIGHTS, changed, made, settings, tensors_of
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint
from parity.checkpoints.formats.huggingface import ARCHITECTURES
from parity.checkpoints.formats.translate import fill, their_shapes
from parity.checks.parameters import random_parameters
from parity.compare import not_identical

HEADS: dict[str, Any] = dict(num_heads=2)
KINDS = dict(zip(NAMES, ARCHITECTURES, strict=True))
IN_MEMORY = [name for name in NAMES if KINDS[name].memory and not KINDS[name].name.startswith("Data2Vec")]


def alone(path: Path, name: str = "ViTForImageClassification") -> Path:
    """A file of a class without its `config.json`."""
    directory = made(path, name)
    (directory / CONFIG).unlink()
    return directory / WEIGHTS


def rewritten(path: Path, rename: Any) -> Path:
    file = path / WEIGHTS if path.is_dir() else path
    save_file({rename(name): value for name, value in load_file(file).items()}, file)
    return path


def fields_of(path: Path, **said: Any) -> set[str]:
    return {assumption.field for assumption in open_checkpoint(path, **said).assumed}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_names_in_memory(name, tmp_path):
    """The same numbers by the names of both spellings."""
    kind = KINDS[name]
    data = settings(kind)
    config = kind.config(data)
    disk, memory = (fill(table, config, source=name) for table in kind.spellings)
    expected = random_parameters({entry.ours: entry.shape for entry in disk})
    for directory, filled in (("disk", disk), ("memory", memory)):
        theirs: dict[str, np.ndarray] = {}
        for entry in filled:
            parts = np.split(expected[entry.ours], len(entry.theirs))
            theirs |= {key: entry.to_theirs(part).copy() for key, part in zip(entry.theirs, parts, strict=True)}
        assert {key: value.shape for key, value in theirs.items()} == their_shapes(filled)
        (tmp_path / directory).mkdir()
        (tmp_path / directory / CONFIG).write_text(json.dumps(data))
        save_file(theirs, tmp_path / directory / WEIGHTS)
        found = open_checkpoint(tmp_path / directory)
        assert not_identical(dict(found.tensors), expected) == ()


def test_some_names_of_one_spelling_and_some_of_the_other(tmp_path):
    """The spelling of which most is there is the one that an error is about."""
    path = made(tmp_path / "model")
    first = "vit.encoder.layer.0.intermediate.dense.weight"
    rewritten(path, lambda name: "vit.layers.0.mlp.fc1.weight" if name == first else name)
    with pytest.raises(CheckpointError, match=rf"2 of \d+ .*\n  missing {first}.*\n  unexpected vit.layers.0.mlp.fc1"):
        open_checkpoint(path)


def test_what_is_assumed_of_a_lone_file_is_listed_until_it_is_said(tmp_path):
    file = alone(tmp_path / "a")
    found = open_checkpoint(file, **HEADS)
    assert found.config.num_classes == 3
    assert found.source["architecture"] == "ViTForImageClassification"
    lines = [str(assumption) for assumption in found.assumed]
    assert lines[:3] == [
        "image_size 24x24: from 9 positions of patches, a square",
        "act gelu: the default of ViTForImageClassification",
        "norm_eps 1e-12: the default of ViTForImageClassification; ViTMSN, which has the same names, has 1e-06",
    ]
    assert lines[3].startswith("preprocessing ")
    assert "ViTImageProcessor" in lines[3]
    said: dict[str, Any] = HEADS | dict(
        image_size=24, act="gelu", norm_eps=1e-12, preprocessing=found.config.preprocessing
    )
    again = open_checkpoint(file, **said)
    assert again.assumed == ()
    assert again.config == found.config
    assert open_checkpoint(file, model=found.config).assumed == ()
    assert open_checkpoint(file, model=found.config).config == found.config


def test_the_named_model_has_what_tensors_cannot_show(tmp_path):
    file = alone(tmp_path / "a")
    like = configs.replace(open_checkpoint(file, **HEADS).config, num_heads=4, act="gelu_tanh", norm_eps=1e-3)
    config = open_checkpoint(file, model=like, norm_eps=1e-4).config
    assert (config.num_heads, config.act, config.norm_eps) == (4, "gelu_tanh", 1e-4)
    with pytest.raises(CheckpointError, match="embed_dim: named model: 192, file: 24"):
        open_checkpoint(file, model="vit_tiny_patch16_224")


def test_heads_of_a_published_width(tmp_path):
    kind = KINDS["ViTForImageClassification-0"]
    data = settings(kind) | dict(hidden_size=192, num_attention_heads=3)
    save_file(tensors_of(kind, data), tmp_path / WEIGHTS)
    found = open_checkpoint(tmp_path / WEIGHTS)
    assert found.config.num_heads == 3
    assert "num_heads 3: from width 192" in map(str, found.assumed)


@pytest.mark.parametrize(("shape", "patches"), [((40, 24), 15), ((24, 40), 15), ((8, 32), 4)])
def test_an_oblong_grid_is_said(shape, patches, tmp_path):
    kind = KINDS["ViTForImageClassification-0"]
    save_file(tensors_of(kind, settings(kind) | dict(image_size=list(shape))), tmp_path / WEIGHTS)
    found = open_checkpoint(tmp_path / WEIGHTS, image_size=shape, **HEADS)
    assert found.config.image_size == shape
    wrong = (shape[0] + 8, shape[1])
    with pytest.raises(CheckpointError, match=rf"image_size: got \({wrong[0]}, {wrong[1]}\).*has {patches} positions"):
        open_checkpoint(tmp_path / WEIGHTS, image_size=wrong, **HEADS)


def test_rotary_positions_hold_for_any_size(tmp_path):
    file = alone(tmp_path / "a", "DINOv3ViTModel")
    found = open_checkpoint(file, **HEADS)
    assert found.config.image_size == (224, 224)
    assert {"image_size", "rope.temperature"} <= {assumption.field for assumption in found.assumed}
    like = configs.replace(found.config, image_size=(40, 24), rope=configs.Rope(kind="centered", temperature=30.0))
    named = open_checkpoint(file, model=like)
    assert named.assumed == ()
    assert named.config.image_size == (40, 24)
    assert named.config.rope is not None
    assert named.config.rope.temperature == 30.0


def test_relative_positions_say_heads_and_size(tmp_path):
    kind = next(kind for kind in ARCHITECTURES if kind.name == "BeitForImageClassification")
    data = settings(kind) | dict(use_relative_position_bias=True)
    save_file(tensors_of(kind, data), tmp_path / WEIGHTS)
    found = open_checkpoint(tmp_path / WEIGHTS)
    assert (found.config.num_heads, found.config.image_size) == (2, (24, 24))
    assert "num_heads" not in {assumption.field for assumption in found.assumed}
    with pytest.raises(CheckpointError, match="num_heads: got 4, but the file says 2"):
        open_checkpoint(tmp_path / WEIGHTS, num_heads=4)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel"])
def test_the_activation_of_clip_is_asked_for(name, tmp_path):
    file = alone(tmp_path / "a", name)
    with pytest.raises(CheckpointError, match=r"--set act=quick_gelu or --set act=gelu "):
        open_checkpoint(file, **HEADS)
    for act in ("quick_gelu", "gelu"):
        assert open_checkpoint(file, act=act, **HEADS).config.act == act


def test_a_pooling_that_names_do_not_show(tmp_path):
    """A prefix is that of a class around the encoder; what it did with the tokens isn't in the file."""
    file = changed(made(tmp_path / "a"), {"classifier.weight": None, "classifier.bias": None}) / WEIGHTS
    (tmp_path / "a" / CONFIG).unlink()
    found = open_checkpoint(file, **HEADS)
    assert (found.config.num_classes, found.config.global_pool) == (0, "token")
    assert "global_pool" in fields_of(file, **HEADS)
    assert open_checkpoint(file, global_pool="avg", **HEADS).config.global_pool == "avg"
    assert "global_pool" not in fields_of(file, global_pool="avg", **HEADS)


def test_preprocessing_beside_a_lone_file(tmp_path):
    file = alone(tmp_path / "a")
    document = dict(
        image_processor_type="ViTImageProcessor", image_mean=[0.1, 0.2, 0.3], size=dict(height=24, width=24)
    )
    file.with_name("preprocessor_config.json").write_text(json.dumps(document))
    found = open_checkpoint(file, **HEADS)
    assert found.config.preprocessing.mean == (0.1, 0.2, 0.3)
    assert "preprocessing" not in {assumption.field for assumption in found.assumed}


def test_a_file_has_the_config_that_lies_beside_it(tmp_path):
    directory = made(tmp_path / "checkpoint-500", layer_norm_eps=1e-3)
    assert open_checkpoint(directory / WEIGHTS).config == open_checkpoint(directory).config
    assert open_checkpoint(directory / WEIGHTS).config.norm_eps == 1e-3


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "state_dict.net.backbone."])
@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2Model", "SiglipForImageClassification"])
def test_wrapped(name, prefix, tmp_path):
    expected = dict(open_checkpoint(made(tmp_path / "as it is", name)).tensors)
    path = rewritten(made(tmp_path / "wrapped", name), lambda tensor: prefix + tensor)
    found = open_checkpoint(path)
    assert found.source["prefix"] == prefix
    assert not_identical(dict(found.tensors), expected) == ()
    (path / CONFIG).unlink()
    assert not_identical(dict(open_checkpoint(path / WEIGHTS, **HEADS).tensors), expected) == ()


@pytest.mark.parametrize(
    "name", ["ViTForImageClassification", "CLIPForImageClassification", "BeitForImageClassification"]
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_classifier_in_a_sequence(name, beside, tmp_path):
    """`nn.Sequential(nn.Dropout(0.1), nn.Linear(...))`."""
    path = made(tmp_path / "a", name)
    expected = dict(open_checkpoint(path).tensors)
    rewritten(path, lambda tensor: tensor.replace("classifier.", "classifier.1."))
    if not beside:
        (path / CONFIG).unlink()
    said: dict[str, Any] = {} if beside else HEADS | dict(act="gelu")
    assert not_identical(dict(open_checkpoint(path, **said).tensors), expected) == ()


def fine_tuned(path: Path, rows: int) -> Path:
    """A classifier of another size, beside the `config.json` of what it began with."""
    head = {"classifier.weight": np.ones((rows, 24), np.float32), "classifier.bias": np.ones(rows, np.float32)}
    return changed(made(path), head if rows else dict.fromkeys(head))


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_classes_that_config_json_does_not_list(rows, tmp_path):
    path = fine_tuned(tmp_path / "a", rows)
    found = f"the classifier in the file has {rows}" if rows else "the file has no classifier"
    with pytest.raises(CheckpointError, match=f"config.json: id2label: got 3 classes, but {found}.*num_classes={rows}"):
        open_checkpoint(path)
    checkpoint = open_checkpoint(path, num_classes=rows)
    assert checkpoint.config.num_classes == rows
    assert "labels" not in checkpoint.source
    with pytest.raises(CheckpointError, match=f"num_classes: got 3, but the classifier in the file has {rows}"):
        open_checkpoint(path, num_classes=3)


def test_classes_of_a_config_json_without_any(tmp_path):
    path = fine_tuned(tmp_path / "a", 7)
    data = json.loads((path / CONFIG).read_text())
    del data["id2label"]
    (path / CONFIG).write_text(json.dumps(data))
    assert open_checkpoint(path).config.num_classes == 7


def test_a_config_json_without_a_class_has_that_of_the_names(tmp_path):
    """`config.save_pretrained` writes no class, only what `model.save_pretrained` adds does."""
    path = made(tmp_path / "a", architectures=None)
    assert open_checkpoint(path).source["architecture"] == "ViTForImageClassification"
    teacher = made(tmp_path / "b", "DeiTForImageClassificationWithTeacher", architectures=None)
    assert open_checkpoint(teacher).source["architecture"] == "DeiTForImageClassificationWithTeacher"


@pytest.mark.parametrize("beside", [True, False])
def test_a_pooler_beside_a_classifier_has_two_readings(beside, tmp_path):
    pooler = {
        "vit.pooler.dense.weight": np.ones((24, 24), np.float32),
        "vit.pooler.dense.bias": np.ones(24, np.float32),
    }
    path = changed(made(tmp_path / "a"), pooler)
    said = {} if beside else HEADS
    if not beside:
        (path / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"--ignore '\*vit.pooler.\*'.*--set pre_logits_dim=N"):
        open_checkpoint(path, **said)
    assert open_checkpoint(path, ignore="*vit.pooler.*", **said).config.pre_logits_dim is None
    between = open_checkpoint(path, pre_logits_dim=24, **said)
    assert between.config.pre_logits_dim == 24
    assert np.array_equal(between.tensors["pre_logits.fc.weight"], pooler["vit.pooler.dense.weight"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ViTModel", (1, 1, 24)), ("BeitModel", (1, 1, 24)), ("Dinov2Model", (1, 24)), ("DINOv3ViTModel", (1, 1, 24))],
)
def test_a_mask_token_is_kept_where_it_is_asked_for(name, shape, tmp_path):
    token = random_parameters({"mask": shape})["mask"].astype(np.float32)
    path = changed(made(tmp_path / "a", name), {"embeddings.mask_token": token})
    left_out = open_checkpoint(path)
    assert "mask_token=true" in left_out.source["ignored"]["embeddings.mask_token"]
    kept = open_checkpoint(path, mask_token=True)
    assert kept.config == configs.replace(left_out.config, mask_token=True)
    assert np.array_equal(kept.tensors["mask_token"], token.reshape(1, 1, 24))
    assert "embeddings.mask_token" not in kept.source.get("ignored", {})
    if name == "ViTModel":  # its class with a mask token has a decoder, too
        with pytest.raises(CheckpointError, match="mask_token: got True, there False"):
            convert(path, tmp_path / "back", to="huggingface", mask_token=True)
    else:
        convert(path, tmp_path / "back", to="huggingface", mask_token=True)
        assert np.array_equal(load_file(tmp_path / "back" / WEIGHTS)["embeddings.mask_token"], token)


def test_a_mask_token_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing vit\.embeddings\.mask_token"):
        open_checkpoint(made(tmp_path / "a"), mask_token=True)


def test_a_head_of_no_class_that_is_known(tmp_path):
    file = alone(tmp_path / "a", "DINOv3ViTModel")
    changed(tmp_path / "a", {"classifier.weight": np.ones((3, 24), np.float32)})
    with pytest.raises(CheckpointError, match=r"DINOv3ViTForImageClassification, which is no class.*--ignore PATTERN"):
        open_checkpoint(file, **HEADS)
    assert open_checkpoint(file, ignore="classifier.*", **HEADS).source["architecture"] == "DINOv3ViTModel"
