"""Parameters by canonical name, and checkpoints, where there is no JAX."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vit_torch
from benchmarks.reduced import distinct_options, representatives
from parity import configs
from parity.checkpoints import CheckpointError, parameter_shapes
from parity.compare import not_identical
from vit_torch.state_dict import canonical_shapes, load_state_dict, state_dict

SMALL = [*configs.names("vit_test*"), "vit_digits"]
# Of each value of every field one model; the others are a sweep.
GROUPS = distinct_options(configs.names(), depth=2)
FEW = {GROUPS[config][0] for config in representatives(GROUPS)}
MODELS = [pytest.param(name, marks=() if name in FEW else pytest.mark.sweep) for name in configs.names()]


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_of_every_registered_model(name):
    """Nothing is allocated; the counts are held against timm's in tests/configs."""
    model = vit_torch.create_model(name, device="meta")
    assert canonical_shapes(model) == parameter_shapes(configs.get(name))


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_round_trip(name, make_model):
    model = make_model(name)
    tensors = state_dict(model)
    assert list(tensors) == list(model.state_dict())
    other = vit_torch.create_model(name, device="meta")
    load_state_dict(other, tensors)
    assert not_identical(state_dict(other), tensors) == ()


def test_a_state_dict_is_a_copy(make_model):
    model = make_model()
    tensors = state_dict(model)
    tensors["cls_token"][:] = 7
    load_state_dict(model, tensors)
    tensors["cls_token"][:] = 8
    assert (model.cls_token == 7).all()


def test_misfits_are_reported_together_and_change_nothing(make_model):
    model = make_model()
    before = state_dict(model)
    tensors = dict(before)
    del tensors["norm.weight"]
    tensors["extra"] = np.zeros(3, np.float32)
    tensors["head.weight"] = np.zeros((3, 48), np.float32)
    with pytest.raises(CheckpointError) as error:
        load_state_dict(model, {key: value + 1 for key, value in tensors.items()}, source="planted")
    for text in ("planted: 3 of", "missing norm.weight [48]", "unexpected extra [3]"):
        assert text in str(error.value)
    assert "misshapen head.weight: got [3, 48], expected [10, 48]" in str(error.value)
    assert not_identical(state_dict(model), before) == ()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_save_and_load_are_exact(name, dtype, tmp_path, make_model):
    model = make_model(name, dtype=dtype)
    vit_torch.save(model, tmp_path / "saved")
    loaded = vit_torch.load(tmp_path / "saved")
    assert not loaded.training
    assert loaded.config == model.config
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert not_identical(state_dict(loaded), state_dict(model)) == ()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["name"] == name


def test_load_options(tmp_path, make_model, make_images):
    model = make_model()
    vit_torch.save(model, tmp_path / "saved")
    other = vit_torch.load(tmp_path / "saved", image_size=(48, 40), num_classes=4, dtype=torch.bfloat16)
    assert other.config == configs.get("vit_test", image_size=(48, 40), num_classes=4)
    assert {value.dtype.name for value in state_dict(other).values()} == {"bfloat16"}
    assert other(make_images(other)).shape == (2, 4)
    assert vit_torch.load(tmp_path / "saved", num_classes=0)(make_images(model)).shape == (2, 48)


def test_what_is_no_checkpoint_is_refused(tmp_path, make_model):
    with pytest.raises(CheckpointError, match="no such file"):
        vit_torch.load(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a checkpoint that is known"):
        vit_torch.load(tmp_path / "other")
    with pytest.raises(CheckpointError, match="exists"):
        vit_torch.save(make_model(), tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
