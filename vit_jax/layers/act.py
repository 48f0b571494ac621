"""Activations by the names that configs use, computed in float32 or better. Twin: `vit_torch/layers/act.py`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU, x * Phi(x), by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return jax.nn.gelu(_wide(x), approximate=False).astype(x.dtype)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The tanh approximation of GELU: up to 5e-4 away from it."""
    return jax.nn.gelu(_wide(x), approximate=True).astype(x.dtype)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """OpenAI CLIP's approximation of GELU, x * sigmoid(1.702 x): up to 2e-2 away from GELU."""
    wide = _wide(x)
    return (wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """SiLU, x * sigmoid(x)."""
    return jax.nn.silu(_wide(x)).astype(x.dtype)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """ReLU, max(x, 0)."""
    return jax.nn.relu(x)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "relu": relu,
}


def _wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
