"""Activations by the names that configs use, computed in float32 or better. Twin: `vit_jax/layers/act.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Activation = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """GELU, x * Phi(x), by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x, approximate="none")


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The tanh approximation of GELU: up to 5e-4 away from it."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """OpenAI CLIP's approximation of GELU, x * sigmoid(1.702 x): up to 2e-2 away from GELU."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """SiLU, x * sigmoid(x)."""
    return F.silu(x)


def relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """ReLU, max(x, 0)."""
    return F.relu(x)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "relu": relu,
}
