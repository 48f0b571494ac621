"""The feed-forward half of a block. Twin: `vit_torch/layers/mlp.py`."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from .. import random
from .act import ACTIVATIONS
from .drop import dropout
from .linear import Linear


class Mlp(nnx.Module):
    """Linear, activation, linear (ViT, Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 3).

    Args:
        dim: Width of the tokens.
        hidden_dim: Width between the two layers.
        act: Name of the activation.
        drop_rate: Dropout after each layer.
        rngs: Source of the initial values.
    """

    def __init__(self, dim: int, hidden_dim: int, *, act: str, drop_rate: float = 0.0, rngs: nnx.Rngs):
        self.act = act
        self.drop_rate = drop_rate
        self.fc1 = Linear(dim, hidden_dim, axes=("embed", "mlp"), rngs=rngs)
        self.fc2 = Linear(hidden_dim, dim, axes=("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], *, key: random.Key | None = None) -> Float[Array, "b n d"]:
        """Transforms each token."""
        key_hidden, key_out = random.split(key, 2)
        x = ACTIVATIONS[self.act](self.fc1(x))
        x = dropout(x, self.drop_rate, key_hidden)
        return dropout(self.fc2(x), self.drop_rate, key_out)


class SwiGluPacked(nnx.Module):
    """A gated MLP whose gate and value are one layer (Shazeer 2020, arXiv:2002.05202, as packed in DINOv2).

    Args:
        dim: Width of the tokens.
        hidden_dim: Width after the gate; the first layer is twice as wide.
        act: Name of the gate's activation.
        drop_rate: Dropout after each layer.
        rngs: Source of the initial values.
    """

    def __init__(self, dim: int, hidden_dim: int, *, act: str, drop_rate: float = 0.0, rngs: nnx.Rngs):
        self.act = act
        self.drop_rate = drop_rate
        self.fc1 = Linear(dim, (2, hidden_dim), axes=("embed", None, "mlp"), rngs=rngs)
        self.fc2 = Linear(hidden_dim, dim, axes=("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], *, key: random.Key | None = None) -> Float[Array, "b n d"]:
        """Transforms each token."""
        key_hidden, key_out = random.split(key, 2)
        x = self.fc1(x)
        x = ACTIVATIONS[self.act](x[..., 0, :]) * x[..., 1, :]
        x = dropout(x, self.drop_rate, key_hidden)
        return dropout(self.fc2(x), self.drop_rate, key_out)


MLPS: dict[str, type[Mlp] | type[SwiGluPacked]] = {"mlp": Mlp, "swiglu_packed": SwiGluPacked}
