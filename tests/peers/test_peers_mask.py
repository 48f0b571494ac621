"""Masked input, as the classes of transformers compute it: BEiT, ViT, DINOv2, DINOv3 with a token, MAE without."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from huggingface_cases import BEIT, DINOV2, MAE, MLP, SQUARE, VIT, WIDTHS
from test_peers_huggingface import Float64, images_for, no_progress_bars  # noqa: F401
from transformers.models.dinov2 import modeling_dinov2
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers
from transformers.models.dinov3_vit import modeling_dinov3_vit

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import checkpoints, configs
from parity.checks.parameters import random_parameters
from parity.checks.twins import exact_jax
from parity.compare import compare
from parity.tolerances import PEERS

MASKED = dict(use_mask_token=True)
# Class and settings; masked by a token.
TOKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("BeitModel", BEIT | MASKED | dict(use_relative_position_bias=True, use_mean_pooling=False)),
    "beit-absolute": ("BeitModel", BEIT | MASKED | dict(use_mean_pooling=False, use_absolute_position_embeddings=True)),
    "vit": ("ViTForMaskedImageModeling", WIDTHS | MLP | SQUARE),
    "dinov2": ("Dinov2Model", DINOV2 | MASKED),
    "dinov2-registers": ("Dinov2WithRegistersModel", DINOV2 | dict(num_register_tokens=3)),
    "dinov3": ("DINOv3ViTModel", WIDTHS | MLP | dict(image_size=(24, 20), patch_size=(8, 4), num_register_tokens=2)),
}


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    """Some classes compute positions in float32, whatever the model's type is."""
    for module in (modeling_dinov2, modeling_dinov2_with_registers, modeling_dinov3_vit):
        monkeypatch.setattr(module, "torch", Float64())


def saved(name: str, settings: dict[str, Any], directory: Path) -> transformers.PreTrainedModel:
    """A model of the class with random values in every parameter, and its checkpoint."""
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings)).double().eval()
    values = random_parameters({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: vit_torch.state_dict.from_numpy(value) for key, value in values.items()}, strict=True)
    model.save_pretrained(directory)
    return model


def opened(directory: Path, token: torch.Tensor | None = None) -> tuple[configs.Config, dict[str, np.ndarray]]:
    """Config and tensors of a checkpoint, with the peer's mask token."""
    found = checkpoints.open_checkpoint(directory)
    tensors = {name: np.asarray(value) for name, value in found.tensors.items()}
    if token is not None:
        tensors["mask_token"] = token.detach().numpy().reshape(1, 1, -1)
    return dataclasses.replace(found.config, mask_token=token is not None), tensors


def mask_of(config: configs.Config) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.permutation(config.num_patches) < config.num_patches // 3 for _ in range(2)])


def ours(
    config: configs.Config, tensors: dict[str, np.ndarray], images: torch.Tensor, mask: np.ndarray
) -> list[np.ndarray]:
    """Features of both twins."""
    model = vit_torch.create_model(config, device="meta").eval()
    vit_torch.state_dict.load_state_dict(model, tensors)
    with torch.inference_mode():
        right = model.forward_features(images, mask=torch.from_numpy(mask)).numpy()
    with exact_jax(np.float64):
        twin = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(params=0)))
        vit_jax.state_dict.load_state_dict(twin, tensors)
        twin.eval()
        inputs = jnp.asarray(images.numpy().transpose(0, 2, 3, 1))
        left = np.asarray(jax.jit(lambda x: twin.forward_features(x, mask=mask))(inputs))
    return [left, right]


def distance(found: np.ndarray, expected: torch.Tensor) -> float:
    return compare({"tokens": found}, {"tokens": expected.numpy()}).worst.relative_l2  # type: ignore[union-attr]


@pytest.mark.parametrize("case", TOKEN)
def test_a_token_for_each_masked_patch(case, tmp_path):
    name, settings = TOKEN[case]
    peer = saved(name, settings, tmp_path)
    token = next(value for key, value in peer.named_parameters() if key.endswith("embeddings.mask_token"))
    config, tensors = opened(tmp_path, token)
    images, mask = images_for(config.image_size), mask_of(config)
    encoder = getattr(peer, "vit", peer)
    with torch.inference_mode():
        expected = encoder(images, bool_masked_pos=torch.from_numpy(mask)).last_hidden_state
        unmasked = encoder(images).last_hidden_state
    for found in ours(config, tensors, images, mask):
        assert distance(found, expected) <= PEERS.limit
        assert distance(found, unmasked) > 1e9 * PEERS.limit


def test_what_mae_leaves_out(tmp_path):
    """Its noise says which patches stay, and shuffles them: sorted by where they come from, they are ours."""
    peer = saved("ViTMAEModel", VIT | MAE | dict(mask_ratio=0.4), tmp_path)
    config, tensors = opened(tmp_path)
    images = images_for(config.image_size)
    noise = torch.from_numpy(np.random.default_rng(2).permuted(np.tile(np.arange(config.num_patches), (2, 1)), axis=1))
    with torch.inference_mode():
        output = peer(images, noise=noise)
    tokens, visible = output.last_hidden_state, int((output.mask[0] == 0).sum())
    order = noise.argsort(dim=1)[:, :visible].argsort(dim=1)
    patches = torch.take_along_dim(tokens[:, 1:], order[:, :, None], dim=1)
    assert 0 < visible < config.num_patches
    for found in ours(config, tensors, images, output.mask.bool().numpy()):
        assert distance(found, torch.cat([tokens[:, :1], patches], dim=1)) <= PEERS.limit
        assert distance(found, tokens) > 1e9 * PEERS.limit
