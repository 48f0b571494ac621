"""The feed-forward half of a block. Twin: `vit_torch/layers/mlp.py`."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from parity.configs import VitConfig

from .. import random
from .act import ACTIVATIONS
from .drop import dropout
from .linear import Linear
from .norm import make_norm


class Mlp(nnx.Module):
    """Linear, activation, linear (ViT, Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 3).

    Args:
        dim: Width of the tokens.
        hidden_dim: Width between the two layers.
        act: Name of the activation.
        bias: Whether the layers have one.
        norm: Of the hidden units; None for none.
        drop_rate: Dropout after each layer.
        rngs: Source of the initial values.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        act: str,
        bias: bool = True,
        norm: nnx.Module | None = None,
        drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.drop_rate = drop_rate
        self._add_inputs(dim, hidden_dim, bias=bias, rngs=rngs)
        self.norm = norm
        self.fc2 = Linear(hidden_dim, dim, bias=bias, axes=("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"], *, key: random.Key | None = None) -> Float[Array, "b n d"]:
        """Transforms each token."""
        key_hidden, key_out = random.split(key, 2)
        x = dropout(self._hidden(x), self.drop_rate, key_hidden)
        x = x if self.norm is None else self.norm(x)
        return dropout(self.fc2(x), self.drop_rate, key_out)

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(dim, hidden_dim, bias=bias, axes=("embed", "mlp"), rngs=rngs)

    def _hidden(self, x: Float[Array, "b n d"]) -> Float[Array, "b n m"]:
        return ACTIVATIONS[self.act](self.fc1(x))


class SwiGlu(Mlp):
    """A gated MLP (Shazeer 2020, arXiv:2002.05202): the activation of one layer times another."""

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.fc1_g = Linear(dim, hidden_dim, bias=bias, axes=("embed", "mlp"), rngs=rngs)
        self.fc1_x = Linear(dim, hidden_dim, bias=bias, axes=("embed", "mlp"), rngs=rngs)

    def _hidden(self, x: Float[Array, "b n d"]) -> Float[Array, "b n m"]:
        return ACTIVATIONS[self.act](self.fc1_g(x)) * self.fc1_x(x)


class SwiGluPacked(Mlp):
    """A gated MLP whose gate and value are one layer, as packed in DINOv2."""

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(dim, (2, hidden_dim), bias=bias, axes=("embed", None, "mlp"), rngs=rngs)

    def _hidden(self, x: Float[Array, "b n d"]) -> Float[Array, "b n m"]:
        x = self.fc1(x)
        return ACTIVATIONS[self.act](x[..., 0, :]) * x[..., 1, :]


MLPS = {"mlp": Mlp, "swiglu": SwiGlu, "swiglu_packed": SwiGluPacked}


def make_mlp(config: VitConfig, *, rngs: nnx.Rngs) -> Mlp:
    """The kind of MLP that the blocks of a config have."""
    return MLPS[config.mlp](
        config.embed_dim,
        config.mlp_dim,
        act=config.act,
        bias=config.mlp_bias,
        norm=make_norm(config, config.mlp_dim, rngs=rngs) if config.mlp_norm else None,
        drop_rate=config.drop_rate,
        rngs=rngs,
    )
