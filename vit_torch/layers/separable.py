"""Attention of linear cost and the MLP beside it, on the tokens of all patches. Twin: `vit_jax/layers/separable.py`.

Source: Mehta and Rastegari 2022, arXiv:2206.02680, eq. 2. Among the tokens that lie alike in all patches,

    y_i = relu(v_i) * sum_j softmax_j(q_j) k_j

with one number q for each token. Tokens are a map of places in a patch and patches, (b, d, p, n) here and (b, p, n, d)
in Flax, and linear layers are convolutions of 1 x 1, as in the authors' code. Masks of dropout are drawn with the
channels last, in both.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import Execution

from .. import random
from .act import ACTIVATIONS
from .attention import Bias, Mask
from .drop import Dropout
from .linear import Conv
from .rope import Rotation

Tokens = Float[Tensor, "b d p n"]


class SeparableAttention(nn.Module):
    """Self-attention whose cost grows with the number of tokens, and not with its square.

    Args:
        dim: The width of the tokens.
        num_heads: 1, for there is one number q for each token.
        attn_drop_rate: Dropout of the attention weights.
        drop_rate: Dropout of the result.

    Raises:
        ValueError: Another number of heads.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        *,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
    ):
        if num_heads != 1:
            raise ValueError(f"num_heads: got {num_heads}, expected 1 for separable attention")
        super().__init__()
        self.qkv_proj = make_pointwise(dim, 1 + 2 * dim)
        self.out_proj = make_pointwise(dim, dim)
        self.attn_drop = Dropout(attn_drop_rate)
        self.drop = Dropout(drop_rate)

    def forward(
        self,
        x: Tokens,
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Tokens:
        """Gives every token what its like have in common.

        Args:
            x: Tokens.
            rotation: None, for the tokens have no rotary positions.
            mask: None, for all of them are seen.
            bias: None, for there are no scores between two tokens.
            key: The key of dropout; without one, what `Dropout.source` says.
            execution: How to run it, on which nothing depends here.

        Raises:
            ValueError: A rotation, mask or bias.
        """
        for name, given in (("rotation", rotation), ("mask", mask), ("bias", bias)):
            if given is not None:
                raise ValueError(f"{name}: got one, expected None for separable attention")
        key_attn, key_out = random.split(key, 2)
        qkv = self.qkv_proj(x)
        q, k, v = qkv.split([1, qkv.shape[1] // 2, qkv.shape[1] // 2], dim=1)
        weights = torch.softmax(q.to(torch.promote_types(q.dtype, torch.float32)), dim=-1).to(q.dtype)
        weights = _dropped(self.attn_drop, weights, key_attn)
        context = (k * weights).sum(dim=-1, keepdim=True)
        return _dropped(self.drop, self.out_proj(ACTIVATIONS["relu"](v) * context), key_out)


class PointwiseMlp(nn.Module):
    """Two convolutions of 1 x 1 around an activation: fc2(act(fc1(x))).

    Args:
        dim: The width of the tokens.
        hidden_dim: The width between the two layers.
        act: The name of the activation, one of `ACTIVATIONS`.
        drop_rate: Dropout after each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, *, act: str = "silu", drop_rate: float = 0.0):
        super().__init__()
        self.act = act
        self.fc1 = make_pointwise(dim, hidden_dim)
        self.fc2 = make_pointwise(hidden_dim, dim)
        self.drop = Dropout(drop_rate)

    def forward(self, x: Tokens, *, key: random.Key | None = None) -> Tokens:
        """Transforms each token.

        Args:
            x: Tokens.
            key: The key of dropout; without one, what `Dropout.source` says.
        """
        key_hidden, key_out = random.split(key, 2)
        x = _dropped(self.drop, ACTIVATIONS[self.act](self.fc1(x)), key_hidden)
        return _dropped(self.drop, self.fc2(x), key_out)


def make_pointwise(in_dim: int, dim: int) -> Conv:
    """A convolution of 1 x 1."""
    size: dict[str, Any] = dict(kernel_size=(1, 1), stride=(1, 1))
    return Conv(in_dim, dim, **size)


def _dropped(drop: Dropout, x: Tokens, key: random.Key | None) -> Tokens:
    """Dropout by a mask that is drawn with the channels last."""
    return drop(x.permute(0, 2, 3, 1), key=key).permute(0, 3, 1, 2)
