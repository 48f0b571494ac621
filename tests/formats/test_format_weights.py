"""Which tensors of a file are the model: prefixes, wrappers, heads, and what training leaves beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_checks import parameters, small
from safetensors.numpy import save_file

from parity.checkpoints import Checkpoint, CheckpointError, open_checkpoint, write
from parity.compare import not_identical

CONFIG = small("vit_base_patch16_224", embed_dim=192, num_heads=3)
MODEL = parameters(CONFIG)
BODY = {name: value for name, value in MODEL.items() if not name.startswith("head.")}


def tensors(values: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: torch.from_numpy(value) for name, value in values.items()}


def saved(value: Any, tmp_path: Path, name: str = "file.pth") -> Path:
    torch.save(value, tmp_path / name)
    return tmp_path / name


def opened(value: Any, tmp_path: Path, **said: Any) -> Checkpoint:
    return open_checkpoint(saved(value, tmp_path), model=CONFIG, **said)


def is_model(found: Checkpoint, expected: Mapping[str, np.ndarray] = MODEL) -> bool:
    return not_identical(dict(found.tensors), expected) == ()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "backbone.", "module._orig_mod.", "net.my_vit."])
@pytest.mark.parametrize("container", ["safetensors", "torch", "npz"])
def test_a_common_prefix_is_stripped_whatever_it_is(prefix, container, tmp_path):
    values: dict[str, Any] = {prefix + name: value for name, value in MODEL.items()}
    if container == "safetensors":
        save_file(values, tmp_path / "file")
    elif container == "torch":
        torch.save(tensors(values), tmp_path / "file")
    else:
        np.savez(tmp_path / "file.npz", **values)
        (tmp_path / "file.npz").rename(tmp_path / "file")
    found = open_checkpoint(tmp_path / "file", model=CONFIG)
    assert is_model(found)
    assert found.source["prefix"] == prefix


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".tar", ".pth.tar", ".safetensors", ""])
def test_the_suffix_decides_nothing(suffix, tmp_path):
    found = open_checkpoint(saved(tensors(MODEL), tmp_path, f"file{suffix}"), model=CONFIG)
    assert (found.source["format"], found.config) == ("timm", CONFIG)
    assert is_model(found)


@pytest.mark.parametrize(
    ("whole", "prefix"),
    [
        ({"state_dict": tensors(MODEL), "epoch": 3}, "state_dict."),
        (
            {"model": tensors(MODEL, "module."), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
            "model.module.",
        ),
        ({"weights": {"inner": tensors(MODEL)}}, "weights.inner."),
        ({"pytorch-lightning_version": "2", "state_dict": tensors(MODEL, "model.")}, "state_dict.model."),
    ],
)
def test_the_one_dictionary_that_holds_a_model_is_taken(whole, prefix, tmp_path):
    found = opened(whole, tmp_path)
    assert is_model(found)
    assert found.source["prefix"] == prefix


def test_what_training_leaves_is_listed(tmp_path):
    state = {"state": {i: {"exp_avg": torch.ones(2), "step": torch.ones(())} for i in range(30)}}
    whole = {"state_dict": tensors(MODEL), "optimizer": state, "epoch": 3, "scaler": {"scale": torch.ones(1)}}
    ignored = opened(whole, tmp_path).source["ignored"]
    assert ignored["optimizer.*"] == "state of the optimiser (60 tensors)"
    assert ignored["scaler.*"].startswith("state of training")
    assert ignored["epoch"] == "no tensor"


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ("criterion.weight", "criterion.*"),
        ("dino_head.mlp.0.weight", "dino_head.*"),
        ("ibot_head.last_layer.weight_g", "ibot_head.*"),
        ("head.mlp.0.weight", "backbone.head.mlp.0.weight"),
        ("projector.0.weight", "projector.*"),
    ],
)
def test_heads_and_losses_of_training_are_known(extra, key, tmp_path):
    prefix = "backbone." if extra.startswith("head.") else ""
    found = opened(tensors(BODY, "backbone.") | {prefix + extra: torch.ones(4, 4)}, tmp_path)
    assert is_model(found, BODY)
    assert found.config.num_classes == 0
    assert "training" in found.source["ignored"][key]


def test_two_models_are_asked_for_and_each_is_read_as_it_is_advised(tmp_path):
    teacher = {name: value + 1 for name, value in MODEL.items()}
    whole = {"student": tensors(MODEL, "module.backbone."), "teacher": tensors(teacher, "backbone.")}
    with pytest.raises(CheckpointError, match=r"2 models .* --prefix student\.module\.backbone\. or"):
        opened(whole, tmp_path)
    assert is_model(opened(whole, tmp_path, prefix="teacher.backbone."), teacher)
    found = opened(whole, tmp_path, prefix="student.")
    assert is_model(found)
    assert found.source["prefix"] == "student.module.backbone."
    assert "outside of the prefix" in found.source["ignored"]["*"]


def test_an_average_is_a_choice(tmp_path):
    average = {name: value / 2 for name, value in MODEL.items()}
    whole = {"model": tensors(MODEL), "model_ema": tensors(average)}
    with pytest.raises(CheckpointError, match=r"--prefix model\. or --prefix model_ema\."):
        opened(whole, tmp_path)
    assert is_model(opened(whole, tmp_path, prefix="model_ema."), average)


@pytest.mark.parametrize("encoders", [("base_encoder",), ("base_encoder", "momentum_encoder")])
def test_an_encoder_of_moco_has_a_projection_and_no_head(encoders, tmp_path):
    values = BODY | {"head.0.weight": np.ones((4, 192), np.float32)}
    whole = {"state_dict": dict(item for name in encoders for item in tensors(values, f"module.{name}.").items())}
    found = opened(whole, tmp_path, prefix="state_dict.module.base_encoder." if encoders[1:] else None)
    assert (found.config.num_classes, is_model(found, BODY)) == (0, True)


def test_the_kernel_of_dino_is_known_by_the_names_beside_the_chosen_model(tmp_path):
    projection = {"head.last_layer.weight_g": torch.ones(4, 1)}
    whole = {name: tensors(BODY, "backbone.") | projection for name in ("student", "teacher")}
    assert opened(whole, tmp_path, prefix="teacher.").config.pos_embed_resize == "bicubic_offset"


def test_a_prefix_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(CheckpointError, match=r"prefix: got 'techer\.', but names begin with .*teacher\."):
        opened({"teacher": tensors(MODEL)}, tmp_path, prefix="techer.")


def test_tensors_are_left_out_as_asked(tmp_path):
    whole = tensors(MODEL, "model.") | {"model.extra.weight": torch.ones(3), "other.weight": torch.ones(2)}
    with pytest.raises(
        CheckpointError, match=r"unexpected model\.extra\.weight \[3\]\n[\s\S]*--ignore 'model\.extra\.\*'"
    ):
        opened(whole, tmp_path)
    found = opened(whole, tmp_path, ignore=("*extra*", "other.*"))
    assert is_model(found)
    assert found.source["ignored"] == {"*extra*": "as asked", "other.*": "as asked"}
    with pytest.raises(CheckpointError, match=r"ignore: no tensor is called 'nothing\.\*'"):
        opened(whole, tmp_path, ignore=("nothing.*",))


@pytest.mark.parametrize("name", ["head", "head.1", "head.fc"])
def test_one_linear_layer_under_the_name_is_the_head(name, tmp_path):
    head = {f"{name}.{kind}": MODEL[f"head.{kind}"] for kind in ("weight", "bias")}
    assert is_model(opened(tensors(BODY | head), tmp_path))


@pytest.mark.parametrize("name", ["classifier", "model.fc", "linear_head", "classifier.1"])
def test_a_head_beside_the_model_is_its_head(name, tmp_path):
    head = {f"{name}.{kind}": MODEL[f"head.{kind}"] for kind in ("weight", "bias")}
    found = opened(tensors(BODY, "model.backbone.") | tensors(head), tmp_path)
    assert is_model(found)
    assert found.source["head"] == name


def test_a_head_of_more_than_a_layer_is_refused_and_can_be_left_out(tmp_path):
    head = {"head.0.weight": np.ones((8, 192), np.float32), "head.2.weight": np.ones((3, 8), np.float32)}
    with pytest.raises(CheckpointError, match=r"head\.0\.weight"):
        opened(tensors(BODY | head), tmp_path)
    assert is_model(opened(tensors(BODY | head), tmp_path, ignore="head.*"), BODY)


def test_no_model_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"no Vision Transformer that is known: .* 1 tensors .*conv\.weight"):
        opened({"conv.weight": torch.ones(3)}, tmp_path)


def test_a_whole_module_is_read_by_its_structure(tmp_path):
    import vit_torch

    model = vit_torch.create_model(CONFIG)
    found = open_checkpoint(saved({"net": model, "epoch": 1}, tmp_path), model=CONFIG)
    assert not_identical(dict(found.tensors), {name: value.numpy() for name, value in model.state_dict().items()}) == ()


@pytest.mark.parametrize("said", [{"prefix": "model."}, {"ignore": ("head.*",)}])
def test_a_native_checkpoint_is_one_model(said, tmp_path):
    write(tmp_path / "native", CONFIG, MODEL)
    with pytest.raises(CheckpointError, match=r"(prefix|ignore): got .* a native checkpoint is one model"):
        open_checkpoint(tmp_path / "native", **said)
