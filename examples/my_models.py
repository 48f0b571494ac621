"""A small model of one's own, written once in Flax NNX and once in PyTorch, with names that suit each.

None of it is made of this project's parts: `test_my_models.py` shows how to prove that the two are the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

PATCH, WIDTH, HIDDEN, CLASSES = 4, 24, 40, 5


class FlaxMixer(nnx.Module):
    """Patches, one MLP block, mean, classifier. Images (b, h, w, 3)."""

    def __init__(self, rngs: nnx.Rngs):
        patch = (PATCH, PATCH)
        self.embed = nnx.Conv(3, WIDTH, patch, strides=patch, padding="VALID", rngs=rngs)
        self.ln = nnx.LayerNorm(WIDTH, epsilon=1e-6, use_fast_variance=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.classifier = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.embed(images)
        x = x.reshape(x.shape[0], -1, WIDTH)
        x = x + self.down(jax.nn.gelu(self.up(self.ln(x)), approximate=False))
        return self.classifier(jnp.mean(x, axis=1))


class TorchMixer(nn.Module):
    """The same. Images (b, 3, h, w)."""

    def __init__(self, *, eps: float = 1e-6, approximate: str = "none"):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH, eps=eps),
            nn.Linear(WIDTH, HIDDEN),
            nn.GELU(approximate=approximate),
            nn.Linear(HIDDEN, WIDTH),
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        return self.head((x + self.mlp(x)).mean(dim=1))


def flax_mixer() -> FlaxMixer:
    """With parameters from seed 0."""
    return FlaxMixer(nnx.Rngs(0))


def mistaken_torch_mixer() -> TorchMixer:
    """The port as many a first attempt is: with the tanh approximation of GELU."""
    return torch_from_flax(flax_mixer(), approximate="tanh")


def torch_from_flax(source: FlaxMixer, **options) -> TorchMixer:
    """A PyTorch model with the parameters of a Flax model."""
    model = TorchMixer(**options).eval()
    layers = {
        "patches": source.embed,
        "mlp.0": source.ln,
        "mlp.1": source.up,
        "mlp.3": source.down,
        "head": source.classifier,
    }
    with torch.no_grad():
        for name, layer in layers.items():
            weight = np.asarray(layer.scale[...] if isinstance(layer, nnx.LayerNorm) else layer.kernel[...])
            # HWIO -> OIHW, in x out -> out x in
            weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
            model.get_submodule(name).weight.copy_(torch.from_numpy(weight.copy()))
            model.get_submodule(name).bias.copy_(torch.from_numpy(np.array(layer.bias[...])))
    return model
