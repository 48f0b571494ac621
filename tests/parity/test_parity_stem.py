"""The statistics of a convolutional stem travel with the parameters; training moves them, and no optimiser does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.functional
import vit_jax.optim
import vit_jax.sharding
import vit_jax.state_dict
import vit_torch
import vit_torch.optim
import vit_torch.state_dict
from parity import checkpoints, configs
from parity.checkpoints.shapes import is_statistic
from parity.checks import random_images, random_parameters
from parity.checks.twins import exact_jax
from parity.compare import compare, not_identical
from parity.recipes import Optimizer
from parity.tolerances import FORWARD, USUAL_ELSEWHERE

STEMS = ["vit_test_conv_stem", "vit_test_hmlp_stem"]


def tensors_of(name: str) -> dict[str, np.ndarray]:
    shapes = checkpoints.parameter_shapes(configs.get(name))
    return {key: value.astype(np.float32) for key, value in random_parameters(shapes).items()}


@pytest.mark.parametrize("name", STEMS)
def test_statistics_are_loaded_converted_and_saved(name, tmp_path):
    tensors = tensors_of(name)
    assert any(is_statistic(key) for key in tensors)
    checkpoints.write(tmp_path / "first", configs.get(name), tensors)
    vit_jax.save(vit_jax.load(tmp_path / "first"), tmp_path / "flax")
    checkpoints.convert(tmp_path / "flax", tmp_path / "copy", to="native")
    vit_torch.save(vit_torch.load(tmp_path / "copy"), tmp_path / "torch")
    found = checkpoints.read(tmp_path / "torch").tensors
    assert not_identical({key: np.asarray(value) for key, value in found.items()}, tensors) == ()


def test_statistics_are_split_over_a_mesh_and_cast_like_parameters(tmp_path):
    checkpoints.write(tmp_path / "model", configs.get(STEMS[0]), tensors_of(STEMS[0]))
    mesh = vit_jax.sharding.make_mesh(devices=jax.devices()[:1])
    placed = vit_jax.state_dict.state_dict(vit_jax.load(tmp_path / "model", mesh=mesh, dtype="bfloat16"))
    model = vit_torch.load(tmp_path / "model", dtype=torch.bfloat16)
    assert not_identical(placed, vit_torch.state_dict.state_dict(model)) == ()
    assert {str(value.dtype) for value in placed.values()} == {"bfloat16"}


def test_a_missing_statistic_is_missed(tmp_path):
    tensors = tensors_of(STEMS[0])
    del tensors["patch_embed.stem.1.norm.running_var"]
    for model, load in (
        (vit_torch.create_model(STEMS[0]), vit_torch.state_dict.load_state_dict),
        (nnx.eval_shape(lambda: vit_jax.create_model(STEMS[0], rngs=nnx.Rngs(0))), vit_jax.state_dict.load_state_dict),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=r"missing .*patch_embed\.stem\.1\.norm\.running_var"):
            load(model, tensors)


def test_statistics_are_no_parameters():
    model = vit_jax.create_model(STEMS[0], rngs=nnx.Rngs(0))
    vit_jax.state_dict.load_state_dict(model, tensors_of(STEMS[0]))
    params = vit_jax.functional.params_of(model)
    twin = vit_torch.create_model(STEMS[0])
    assert set(params) == {name for name, _ in twin.named_parameters()}
    assert not any(map(is_statistic, params))
    # They stay with a model whose parameters are others.
    bound = vit_jax.functional.bind(model, {name: value + 1 for name, value in params.items()})
    changed = not_identical(vit_jax.state_dict.state_dict(bound), vit_jax.state_dict.state_dict(model))
    assert set(changed) == set(params)


@pytest.mark.parametrize("name", STEMS)
def test_what_is_loaded_is_in_evaluation_mode(name, tmp_path):
    checkpoints.write(tmp_path / "model", configs.get(name), tensors_of(name))
    images = random_images(configs.get(name), 3).astype(np.float32)
    left, right = vit_jax.load(tmp_path / "model"), vit_torch.load(tmp_path / "model")
    # The function changes nothing that lies outside of it.
    one = np.asarray(jax.jit(lambda x: left(x))(jnp.asarray(images)))
    with torch.no_grad():
        other = right(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    assert compare({"logits": one}, {"logits": other}).ok(FORWARD["float32"].limit)
    for state in (vit_jax.state_dict.state_dict(left), vit_torch.state_dict.state_dict(right)):
        assert not_identical(state, tensors_of(name)) == ()


@pytest.mark.parametrize("name", STEMS)
def test_training_takes_the_statistics_of_the_batch_and_moves_the_running_ones(name):
    config = configs.get(name).shortened(1)
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    images = random_images(config, 3)
    twin = vit_torch.create_model(config, device="meta")
    vit_torch.state_dict.load_state_dict(twin, tensors)
    expected = {"logits": twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).detach().numpy()}
    expected |= vit_torch.state_dict.state_dict(twin)
    with exact_jax(np.float64):
        model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))
        vit_jax.state_dict.load_state_dict(model, tensors)
        # As the documentation of Flax teaches: what a compiled function changes of a model comes back.
        found = {"logits": np.asarray(nnx.jit(lambda model, x: model(x))(model, jnp.asarray(images)))}
        found |= vit_jax.state_dict.state_dict(model)
        model.eval()
        evaluated = np.asarray(model(jnp.asarray(images)))
    assert compare(found, expected).ok(FORWARD["float64"].limit)
    assert set(not_identical({name: found[name] for name in tensors}, tensors)) == set(filter(is_statistic, tensors))
    assert not compare({"logits": evaluated}, {"logits": expected["logits"]}).ok(USUAL_ELSEWHERE)


def test_no_optimizer_has_statistics():
    optimizer = Optimizer(learning_rate=0.1)
    twin = vit_torch.create_model(STEMS[0], device="meta")
    groups = vit_torch.optim.make_optimizer(optimizer, twin, steps=3).param_groups
    held = {id(value) for group in groups for value in group["params"]}
    assert held == {id(value) for value in twin.parameters()}
    model = vit_jax.create_model(STEMS[0], rngs=nnx.Rngs(0))
    params = vit_jax.functional.params_of(model)
    moments = vit_jax.optim.moments_of(vit_jax.optim.make_optimizer(optimizer, model, steps=3).init(params))
    assert {frozenset(tree) for tree in moments.values()} == {frozenset(name for name, _ in twin.named_parameters())}


def test_another_patch_size_is_refused(tmp_path):
    checkpoints.write(tmp_path / "model", configs.get(STEMS[0]), tensors_of(STEMS[0]))
    with pytest.raises(ValueError, match=r"^patch_size: got \(8, 8\), expected \(4, 4\), the stride of stem 'conv'$"):
        vit_torch.load(tmp_path / "model", patch_size=8)
