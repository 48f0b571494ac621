"""What a user may point `vit-parity diff` at: models and functions that aren't ours."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

WEIGHT = np.random.default_rng(5).standard_normal((48, 7))


def _patches(images):
    b, h, w, c = images.shape
    return images.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 16 * c)


def with_numpy(images):
    hidden = _patches(images) @ WEIGHT
    return np.tanh(hidden).mean(axis=1), {"hidden": hidden, "act": np.tanh(hidden)}


def with_jax(images):
    hidden = _patches(images) @ jnp.asarray(WEIGHT)
    return jnp.tanh(hidden).mean(axis=1), {"their_hidden": hidden}


def with_jax_at_another_scale(images):
    hidden = _patches(images) @ jnp.asarray(WEIGHT)
    return jnp.tanh(1.001 * hidden).mean(axis=1), {"their_hidden": hidden, "their_act": jnp.tanh(1.001 * hidden)}


def with_torch(images):
    return torch.tanh(torch.from_numpy(_patches(images.permute(0, 2, 3, 1).numpy()) @ WEIGHT)).mean(dim=1)


def in_float32_alone(images):
    if images.dtype != torch.float32:
        raise RuntimeError("expected float32")
    return torch.tanh(torch.from_numpy(_patches(images.permute(0, 2, 3, 1).numpy()) @ np.float32(WEIGHT))).mean(dim=1)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 4), nn.Flatten(), nn.Linear(4 * 5 * 9, 6)).eval()


not_callable = 3
