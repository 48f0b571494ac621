"""The feed-forward half of a block. Twin: `vit_jax/layers/mlp.py`.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 2, with GELU for ReLU. Where other projects differ: `jax.nn.gelu` and
`nnx.gelu` are the tanh approximation by default, `torch.nn.GELU` is the error function; OpenAI's CLIP has
x * sigmoid(1.702 x). The width of a gated MLP is that of one half here; timm gives that of both for packed ones.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from .. import random
from .act import ACTIVATIONS
from .drop import Dropout
from .linear import Conv, Linear
from .norm import Norm


class Mlp(nn.Module):
    """Two linear layers around an activation: fc2(act(fc1(x))) (Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 3).

    Args:
        dim: The width of the tokens.
        hidden_dim: The width between the two layers.
        act: The name of the activation, one of `ACTIVATIONS`.
        bias: Whether the layers have one.
        norm: The norm of the hidden units, such as `LayerNorm`; None for none.
        drop_rate: Dropout after each layer.

    Raises:
        ValueError: An unknown activation.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        act: str = "gelu",
        bias: bool = True,
        norm: Norm | None = None,
        drop_rate: float = 0.0,
    ):
        if act not in ACTIVATIONS:
            raise ValueError(f"act: got {act!r}, expected one of {', '.join(ACTIVATIONS)}")
        super().__init__()
        self.act = act
        self.drop = Dropout(drop_rate)
        hidden_norm = None if norm is None else norm(hidden_dim)
        self._add_inputs(dim, hidden_dim, bias=bias)
        self.norm = hidden_norm
        self.fc2 = Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*b d"], *, key: random.Key | None = None) -> Float[Tensor, "*b d"]:
        """Transforms each token.

        Args:
            x: Tokens, or anything else with its channels last.
            key: The key of dropout; without one, what `Dropout.source` says.
        """
        key_hidden, key_out = random.split(key, 2)
        x = self.drop(self._hidden(x), key=key_hidden)
        x = x if self.norm is None else self.norm(x)
        return self.drop(self.fc2(x), key=key_out)

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        self.fc1 = Linear(dim, hidden_dim, bias=bias)

    def _hidden(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        return ACTIVATIONS[self.act](self.fc1(x))


class SwiGlu(Mlp):
    """A gated MLP (Shazeer 2020, arXiv:2002.05202, eq. 6): fc2(act(fc1_g(x)) * fc1_x(x)); arguments as of `Mlp`."""

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        self.fc1_g = Linear(dim, hidden_dim, bias=bias)
        self.fc1_x = Linear(dim, hidden_dim, bias=bias)

    def _hidden(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        return ACTIVATIONS[self.act](self.fc1_g(x)) * self.fc1_x(x)


class SwiGluPacked(Mlp):
    """A gated MLP whose gate and value are one layer, the gate first, as in DINOv2; arguments as of `Mlp`."""

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        self.fc1 = Linear(dim, (2, hidden_dim), bias=bias)

    def _hidden(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        x = self.fc1(x)
        return ACTIVATIONS[self.act](x[..., 0, :]) * x[..., 1, :]


class ConvMlp(Mlp):
    """An MLP on a map, with a depthwise convolution of 3 x 3 between its layers (Wang et al. 2021, arXiv:2106.13797).

    fc2(act(dwconv(fc1(x)))), with a ReLU before the convolution in its linear variant.

    Args:
        dim: The width of the tokens.
        hidden_dim: The width between the two layers.
        relu: Whether there is the ReLU.
        options: The other arguments of `Mlp`.

    Raises:
        ValueError: An unknown activation.
    """

    channels_first: ClassVar = False

    def __init__(self, dim: int, hidden_dim: int, *, relu: bool = False, **options: Any):
        self.relu = relu
        super().__init__(dim, hidden_dim, **options)

    def _add_inputs(self, dim: int, hidden_dim: int, *, bias: bool) -> None:
        super()._add_inputs(dim, hidden_dim, bias=bias)
        size: dict[str, Any] = dict(kernel_size=(3, 3), stride=(1, 1), padding=1, groups=hidden_dim)
        self.dwconv = Conv(hidden_dim, hidden_dim, **size)

    def _hidden(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w m"]:
        x = self.fc1(x)
        x = ACTIVATIONS["relu"](x) if self.relu else x
        return ACTIVATIONS[self.act](self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
