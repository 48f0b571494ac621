"""Masked patches: both twins against each other, and against what masking means."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import checkpoints, configs
from parity.checks import random_images, random_parameters
from parity.checks.twins import exact_jax, torch_images
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import FORWARD, GRADIENTS

LIMIT = FORWARD["float64"].limit
# Rotary positions and two norms; relative positions; positions of all tokens, and of patches alone after a norm.
WITH_TOKEN = {
    "vit_test_dinov3_untied": {},
    "vit_test_beit": dict(mask_token=True),
    "vit_test_dist": dict(mask_token=True),
    "vit_test_differential": dict(mask_token=True, pos_embed_prefix="none"),
}
LEFT_OUT = {"vit_test_reg_scale": {}, "vit_test_sincos": {}, "vit_test_map": {}, "vit_test_scaling": {}}
Outputs = dict[str, np.ndarray]


def mask_of(config: configs.Config, seed: int = 0) -> np.ndarray:
    """A third of the patches, others in each image."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(config.num_patches) < config.num_patches // 3 for _ in range(2)])


def models(config: configs.Config, execution: Execution = Execution()) -> tuple[Any, Any]:
    """Both twins with the same float64 parameters."""
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    left = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0), execution=execution))
    vit_jax.state_dict.load_state_dict(left, tensors)
    right = vit_torch.create_model(config, device="meta").eval()
    vit_torch.state_dict.load_state_dict(right, tensors)
    return left, right


def run_flax(config: configs.Config, mask: np.ndarray, execution: Execution = Execution()) -> Outputs:
    with exact_jax(np.float64):
        model, _ = models(config, execution)

        def run(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            features = model.forward_features(images, mask=mask)
            return features, model.forward_head(features)

        features, logits = jax.jit(run)(jnp.asarray(random_images(config, 2)))
        return {"features": np.asarray(features), "logits": np.asarray(logits)}


def run_torch(config: configs.Config, mask: np.ndarray | None) -> Outputs:
    _, model = models(config)
    images = torch_images(random_images(config, 2), np.float64)
    given = None if mask is None else torch.from_numpy(mask)
    with torch.inference_mode():
        features, logits = model.forward_features(images, mask=given), model(images, mask=given)
        return {"features": features.numpy(), "logits": logits.numpy()}


def check(name: str, execution: Execution = Execution()) -> None:
    config = configs.get(name, **(WITH_TOKEN | LEFT_OUT)[name])
    mask = mask_of(config)
    left, right = run_flax(config, mask, execution), run_torch(config, mask)
    assert compare(left, right).ok(LIMIT)
    visible = config.num_patches - (0 if config.mask_token else config.num_patches // 3)
    assert left["features"].shape[1] == config.num_prefix_tokens + visible
    # The mask did something, and each patch's own.
    for other in (None, mask_of(config, seed=1)):
        logits = run_torch(config, other)["logits"]
        assert not compare({"logits": right["logits"]}, {"logits": logits}).ok(1e9 * LIMIT)


@pytest.mark.parametrize("name", WITH_TOKEN | LEFT_OUT)
def test_masked_forward_passes_are_equal(name):
    check(name)


@pytest.mark.parametrize("name", ["vit_test_dinov3_untied", "vit_test_reg_scale"])
def test_scanned_blocks_take_masked_tokens(name):
    check(name, Execution(scan=True))


@pytest.mark.parametrize("name", WITH_TOKEN)
def test_masked_pixels_are_not_seen(name):
    config = configs.get(name, **WITH_TOKEN[name])
    _, model = models(config)
    mask = torch.from_numpy(mask_of(config))
    images = torch_images(random_images(config, 2), np.float64)
    height, width = config.patch_size
    pixels = mask.unflatten(1, config.grid_size).repeat_interleave(height, 1).repeat_interleave(width, 2)[:, None]
    hidden = torch.where(pixels, 7.0, images)
    with torch.inference_mode():
        assert torch.equal(model(images, mask=mask), model(hidden, mask=mask))
        assert not torch.equal(model(images, mask=~mask), model(hidden, mask=~mask))


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_the_tokens_without_it(name):
    """The first block's input, by hand: positions belong to patches, wherever they come to lie."""
    config = configs.get(name, **LEFT_OUT[name])
    _, model = models(config)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    mask = torch.from_numpy(mask_of(config))
    images = torch_images(random_images(config, 2), np.float64)
    with torch.inference_mode():
        model(images)
        model(images, mask=mask)
    whole, left = seen
    stays = torch.cat([torch.ones(2, config.num_prefix_tokens, dtype=torch.bool), ~mask], dim=1)
    assert torch.equal(left, whole[stays].unflatten(0, (2, -1)))


def test_gradients_of_a_masked_loss_are_equal():
    config = configs.get("vit_test_dinov3_untied")
    mask, images = mask_of(config), random_images(config, 2)
    with exact_jax(np.float64):
        left, right = models(config)
        graphdef, state = nnx.split(left)

        def loss(state: nnx.State, mask: jax.Array) -> jax.Array:
            return jnp.square(nnx.merge(graphdef, state)(jnp.asarray(images), mask=mask)).sum()

        # With a token the mask may be traced.
        grads = nnx.merge(graphdef, jax.jit(jax.grad(loss))(state, jnp.asarray(mask)))
        flax = vit_jax.state_dict.state_dict(grads)
    right(torch_images(images, np.float64), mask=torch.from_numpy(mask)).square().sum().backward()
    twin = {name: parameter.grad.numpy() for name, parameter in right.named_parameters() if "k_bias" not in name}
    chosen = ("mask_token", "cls_token", "cls_norm.weight", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
    assert compare({n: flax[n] for n in chosen}, {n: twin[n] for n in chosen}).ok(GRADIENTS["float64"].limit)
    assert np.abs(twin["mask_token"]).min() > 0


def unequal(mask: np.ndarray) -> np.ndarray:
    mask[1, mask[1].argmin()] = True
    return mask


BAD = [
    ("vit_test", lambda m: m[:, 1:], r"^mask: got bool of shape \(2, 29\), expected bool of shape \(2, 30\): images, "),
    (
        "vit_test",
        lambda m: m.astype(np.int32),
        r"^mask: got int32 of shape \(2, 30\), expected bool of shape \(2, 30\)",
    ),
    (
        "vit_test",
        unequal,
        r"^mask: got 10 masked patches in one image and 11 in another, expected equally many in each",
    ),
    ("vit_test", np.ones_like, r"^mask: got all 30 patches masked, expected fewer, for they are left out$"),
    ("vit_test_rope", np.array, r"^mask: got one for a model with rope and no mask token, expected rope None$"),
    (
        "vit_test_beit",
        np.array,
        r"^mask: got one for a model with rel_pos_bias and no mask token, expected rel_pos_bias",
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_a_mask_that_cannot_be_used(name, change, message):
    config = configs.get(name)
    mask, images = change(mask_of(config)), random_images(config, 2)
    with exact_jax(np.float64):
        left, right = models(config)
        with pytest.raises(ValueError, match=message):
            left(jnp.asarray(images), mask=mask)
    with pytest.raises(ValueError, match=message):
        right(torch_images(images, np.float64), mask=torch.from_numpy(mask))


def test_a_traced_mask_cannot_leave_patches_out():
    config = configs.get("vit_test")
    with exact_jax(np.float64):
        left, _ = models(config)
        with pytest.raises(
            ValueError, match=r"^mask: got a traced array, expected a concrete one, as of NumPy: how many"
        ):
            jax.jit(lambda x, mask: left(x, mask=mask))(jnp.asarray(random_images(config, 2)), mask_of(config))
