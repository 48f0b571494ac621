"""Parameters by canonical name, and checkpoints, where there is no PyTorch."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from benchmarks.reduced import distinct_options, representatives
from parity import configs
from parity.checkpoints import CheckpointError, parameter_shapes
from parity.compare import not_identical
from vit_jax.state_dict import canonical_shapes, load_state_dict, state_dict

# One for each part that can differ.
SMALL = [
    f"vit_test_{name}" for name in ("dist", "swiglu", "map", "rope_mixed", "dinov3", "beit", "scaling_differential")
]


# Of each value of every field one model; the others are a sweep.
GROUPS = distinct_options(configs.names(), depth=2)
FEW = {GROUPS[config][0] for config in representatives(GROUPS)}
MODELS = [
    *(pytest.param(name, 2, marks=() if name in FEW else pytest.mark.sweep) for name in configs.names()),
    ("vit_gigantic_patch14_224", 48),
]


@pytest.mark.parametrize(("name", "depth"), MODELS)
def test_names_and_shapes_of_every_registered_model(name, depth):
    """Nothing is allocated; the counts are held against timm's in tests/configs."""
    config = configs.get(name).shortened(depth)
    model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))
    assert canonical_shapes(model) == parameter_shapes(config)


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_round_trip(name, make_model):
    model = make_model(name)
    tensors = {key: value + 1 for key, value in state_dict(model).items()}
    load_state_dict(model, tensors)
    assert not_identical(state_dict(model), tensors) == ()


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
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_save_and_load_are_exact(name, dtype, tmp_path, make_model):
    model = make_model(name, dtype=jnp.dtype(dtype))
    vit_jax.save(model, tmp_path / "saved")
    loaded = vit_jax.load(tmp_path / "saved")
    assert loaded.config == model.config
    assert not_identical(state_dict(loaded), state_dict(model)) == ()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["name"] == name


def test_load_options(tmp_path, make_model, make_images):
    model = make_model()
    vit_jax.save(model, tmp_path / "saved")
    other = vit_jax.load(tmp_path / "saved", image_size=(48, 40), num_classes=4, dtype=jnp.bfloat16)
    assert other.config == configs.get("vit_test", image_size=(48, 40), num_classes=4)
    assert {value.dtype.name for value in state_dict(other).values()} == {"bfloat16"}
    assert jax.eval_shape(other, make_images(other)).shape == (2, 4)
    assert jax.eval_shape(vit_jax.load(tmp_path / "saved", num_classes=0), make_images(model)).shape == (2, 48)


def test_what_is_no_checkpoint_is_refused(tmp_path, make_model):
    with pytest.raises(CheckpointError, match="no such file"):
        vit_jax.load(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a checkpoint that is known"):
        vit_jax.load(tmp_path / "other")
    with pytest.raises(CheckpointError, match="exists"):
        vit_jax.save(make_model(), tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
