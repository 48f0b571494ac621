"""Mixed precision: what is kept in float32 between the products of a block, in both twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.functional
import vit_jax.train_step
import vit_torch
import vit_torch.train_step
from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checks.parameters import random_parameters
from vit_jax.layers.attention import reference_attention as flax_attention
from vit_torch.layers.attention import reference_attention as torch_attention

CONFIG = configs.replace(configs.get("vit_digits"), depth=2, layer_scale_init=1e-5)
IMAGES = np.random.default_rng(0).normal(size=(4, *CONFIG.image_size, CONFIG.in_chans))


def flax_model(config: Any, tensors: dict[str, np.ndarray], dtype: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The model with what mixed precision casts cast; it gives the tokens after each block, and the logits last."""
    model = vit_jax.create_model(config, rngs=nnx.Rngs(0))
    vit_jax.state_dict.load_state_dict(model, tensors)
    params = vit_jax.train_step.mixed(vit_jax.functional.params_of(model), dtype)
    bound = vit_jax.functional.bind(model, params)
    bound.eval()

    def run(images: np.ndarray) -> list[np.ndarray]:
        x = jnp.asarray(images, jnp.float32)
        return [np.asarray(out) for out in (*bound.forward_intermediates(x), bound(x))]

    return run


def torch_model(config: Any, tensors: dict[str, np.ndarray], dtype: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The twin of `flax_model`."""
    model = vit_torch.create_model(config)
    vit_torch.state_dict.load_state_dict(model, tensors)
    mixed = vit_torch.train_step.mixed(dict(model.named_parameters()), getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        parameter.data = mixed[name].data
    model.eval()

    @torch.no_grad()
    def run(images: np.ndarray) -> list[np.ndarray]:
        x = torch.from_numpy(images).float().permute(0, 3, 1, 2)
        outputs = (*model.forward_intermediates(x), model(x))
        return [vit_torch.state_dict.to_numpy(out) for out in outputs]

    return run


@pytest.mark.parametrize("twin", [flax_model, torch_model])
def test_a_branch_that_is_a_hundred_thousandth_of_the_tokens_is_added(twin):
    """With LayerScale at 1e-5 a block changes its tokens by less than bfloat16's last bit."""
    tensors = {
        name: np.full(value.shape, 1e-5, np.float32) if name.endswith("gamma") else value.astype(np.float32)
        for name, value in random_parameters(parameter_shapes(CONFIG)).items()
    }
    (first, second, logits), exact = (twin(CONFIG, tensors, dtype)(IMAGES) for dtype in ("bfloat16", "float32"))
    assert first.dtype == second.dtype == logits.dtype == np.float32
    added, expected = second - first, exact[1] - exact[0]
    assert np.linalg.norm(expected) < 2**-9 * np.linalg.norm(first)
    assert np.linalg.norm(added - expected) < 3e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("twin", [flax_model, torch_model])
def test_tokens_without_positions_or_prefix_are_wide_too(twin):
    config = configs.replace(CONFIG, class_token=False, pos_embed="none", global_pool="avg")
    tensors = {name: value.astype(np.float32) for name, value in random_parameters(parameter_shapes(config)).items()}
    outputs = twin(config, tensors, "bfloat16")(IMAGES)
    assert {out.dtype for out in outputs} == {np.dtype(np.float32)}


def test_scores_are_not_rounded_before_the_softmax():
    """Scores of 300 and 301 differ by less than bfloat16's step of 2 there; the softmax must see them apart."""
    q, k = np.full((1, 1, 1, 4), 8.0), np.zeros((1, 2, 1, 4))
    k[0, 0], k[0, 1] = 9.375, (9.375, 9.375, 9.375, 9.5)
    v = np.asarray([0.0, 1.0])[None, :, None, None]
    expected = 1 / (1 + np.exp(-1.0))
    flax = flax_attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), scale=1.0)
    twin = torch_attention(*(torch.from_numpy(x).bfloat16() for x in (q, k, v)), scale=1.0)
    for found in (float(flax.squeeze()), float(twin.squeeze())):
        assert abs(found - expected) < 2**-8
