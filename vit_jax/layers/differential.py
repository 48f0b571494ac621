"""Differential attention. Twin: `vit_torch/layers/differential.py`.

Source: Ye et al. 2024, arXiv:2410.05258, eq. 1 to 3. Each head of query and key is split in two, and one attention is
subtracted from the other, times a learned factor:

    (softmax(q1 k1^T / sqrt(hd / 2)) - factor * softmax(q2 k2^T / sqrt(hd / 2))) v
    factor = exp(lambda_q1 . lambda_k1) - exp(lambda_q2 . lambda_k2) + lambda_init

with an RMS norm over each head of the result, times 1 - lambda_init. The paper halves the number of heads; as in timm,
the width of a head is halved here, and the norm's epsilon is 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.configs import Execution

from .. import random
from .attention import Attention, AttentionCore, Bias, Mask, dot_product_attention
from .norm import Norm, RmsNorm
from .rope import Rotation


def lambda_init(index: int) -> float:
    """The factor's start value in a block, which rises with its index (section 2.1): 0.2 in the first, towards 0.8."""
    return 0.8 - 0.6 * math.exp(-0.3 * index)


class DifferentialCore(AttentionCore):
    """What happens between the projections.

    Args:
        head_dim: The width of one head; even.
        qk_norm: The norm over each half of a head of query and key; None for none.
        rotate_half: Has no effect, for there is no rotation.
        attn_drop_rate: Dropout of the attention weights.
        rngs: The source of the initial values.

    Raises:
        ValueError: An odd width.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        qk_norm: Norm | None = None,
        rotate_half: bool = False,
        attn_drop_rate: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if head_dim % 2:
            raise ValueError(f"dim / num_heads: got {head_dim}, expected an even number for differential attention")
        half = head_dim // 2
        super().__init__(half, qk_norm=qk_norm, rotate_half=rotate_half, attn_drop_rate=attn_drop_rate, rngs=rngs)
        self.lambda_init = lambda_init(0)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nnx.Param(jax.random.normal(rngs.params(), (half,), jnp.float32) * 0.1) for _ in range(4)
        )
        self.sub_norm = RmsNorm(head_dim, eps=1e-5, rngs=rngs)

    def attend(
        self,
        q: Float[Array, "b n nh hd"],
        k: Float[Array, "b m nh hd"],
        v: Float[Array, "b m nh hd"],
        *,
        rotation: Rotation | None = None,
        mask: Mask | None = None,
        bias: Bias | None = None,
        key: random.Key | None = None,
        execution: Execution = Execution(),
    ) -> Float[Array, "b n nh*hd"]:
        """Mixes the values of each image, heads side by side; mask and bias are those of both attentions.

        Raises:
            ValueError: There is a rotation, for which halves of heads have no meaning.
        """
        if rotation is not None:
            raise ValueError("rotation: got one, expected None with differential attention")
        q, k = (x.reshape(*x.shape[:3], 2, -1) for x in (q, k))
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        q, k = (x.astype(v.dtype) for x in (q, k))
        rate, key = self.attn_drop.rate, self.attn_drop.source(key)
        first, second = (
            dot_product_attention(
                q[..., i, :],
                k[..., i, :],
                v,
                scale=self.scale,
                mask=mask,
                bias=bias,
                drop_rate=rate,
                key=half_key,
                execution=execution,
            )
            for i, half_key in enumerate(random.split(key, 2))
        )
        factor = self._factor()
        x = first - factor * second.astype(factor.dtype)
        x = self.sub_norm(x) * (1 - self.lambda_init)
        return x.reshape(*x.shape[:2], -1)

    def _factor(self) -> Float[Array, ""]:
        pairs = ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        wide = jnp.promote_types(self.lambda_q1.dtype, jnp.float32)
        one, two = (jnp.exp(jnp.sum(q[...].astype(wide) * k[...].astype(wide))) for q, k in pairs)
        return one - two + self.lambda_init


class DifferentialAttention(Attention, DifferentialCore):
    """Self-attention whose weights are the difference of two softmaxes.

    Args:
        dim: The width of the tokens.
        num_heads: The number of heads; divides the width, and a head's width is even.
        index: The number of the block that it is in, from 0; the factor's start value rises with it.
        options: The other arguments of `Attention`.

    Raises:
        ValueError: The heads don't divide the width, or an odd number of channels for each.
    """

    # Named here, not found through two bases: `nnx.tabulate` leaves the methods that it has wrapped on each class, and
    # `Attention` would then have one of its own before this one.
    attend = DifferentialCore.attend

    def __init__(self, dim: int, num_heads: int, *, index: int = 0, **options: Any):
        super().__init__(dim, num_heads, **options)
        self.lambda_init = lambda_init(index)
