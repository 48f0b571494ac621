"""Activations by the names that configs use, computed in float32 or better. Twin: `vit_torch/layers/act.py`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def _wide(act: Activation) -> Activation:
    """The same in float32 or better; for the backward pass x alone is kept, as it came, and the rest computed again."""

    def rounded(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return act(x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)

    return functools.wraps(act)(jax.checkpoint(rounded, prevent_cse=False))


@_wide
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU, x * Phi(x), by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return _gelu(x)


@_wide
def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The tanh approximation of GELU: up to 5e-4 away from it."""
    return jax.nn.gelu(x, approximate=True)


@_wide
def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """OpenAI CLIP's approximation of GELU, x * sigmoid(1.702 x): up to 2e-2 away from GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


@_wide
def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """SiLU, x * sigmoid(x)."""
    return jax.nn.silu(x)


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


@jax.custom_jvp
def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=False)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Phi(x) + x * phi(x), with one error function; XLA would compute two."""
    (x,), (x_dot,) = primals, tangents
    cdf = 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
    return x * cdf, x_dot * (cdf + x * jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))
