"""BatchNorm: by the batch's statistics in training, by the running ones in evaluation.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2. Over all axes but the channels,

    y = (x - mean) / sqrt(var + eps) * scale + bias

where training takes mean and variance of the batch and moves the running ones towards them,

    running = running + momentum * (batch - running)

and evaluation takes the running ones. Twin: `vit_torch/layers/batch_norm.py`.

Deviations: those of PyTorch from the paper. The batch is divided by the root of its biased variance (the mean of n
squares), and the running variance moves towards the unbiased one (n - 1 for n). `nnx.BatchNorm` keeps the biased one,
calls `1 - momentum` the momentum, and takes the variance as E[x^2] - E[x]^2.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from parity.checkpoints.leaf import Leaf


class BatchNorm(nnx.Module):
    """Normalises each channel over all other axes, in float32 or better.

    `model.train()` and `model.eval()` choose between the batch's statistics, which also change the running ones `mean`
    and `var` in place, and the running ones, which then stay: they set `use_running_average`, which is False to begin
    with. Compiled over a mesh, the batch is the whole batch, however it is split.

    Args:
        dim: The number of channels, the last axis.
        eps: What is added to the variance.
        momentum: The share of the new batch in the running statistics, as in PyTorch; Flax and Keras call 1 minus it
            the momentum.
        init: The start value of every scale.
        rngs: The source of the initial values, none of which is drawn.

    Raises:
        ValueError: The momentum isn't a share.
    """

    leaves: ClassVar = {
        "scale": Leaf("weight", "d -> d"),
        "bias": Leaf("bias", "d -> d"),
        "mean": Leaf("running_mean", "d -> d"),
        "var": Leaf("running_var", "d -> d"),
    }

    def __init__(self, dim: int, *, eps: float = 1e-5, momentum: float = 0.1, init: float = 1.0, rngs: nnx.Rngs):
        if not (isinstance(momentum, int | float) and 0 <= momentum <= 1):
            raise ValueError(f"momentum: got {momentum!r}, expected a share from 0 to 1, that of the new batch")
        self.eps = eps
        self.momentum = momentum
        self.use_running_average = False
        self.scale = nnx.Param(jnp.full(dim, init, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(dim, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(dim, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(dim, jnp.float32))

    def __call__(self, x: Float[Array, "b *rest d"]) -> Float[Array, "b *rest d"]:
        """Normalises each channel; in training mode changes the running statistics, too.

        Raises:
            ValueError: Another number of channels, or in training mode a single value for each of them, or running
                statistics of fewer bits than float32.
        """
        dim = self.mean.shape[0]
        if x.ndim < 2 or x.shape[-1] != dim:
            raise ValueError(f"x: got shape {x.shape}, expected (batch, ..., {dim})")
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scale, bias, mean, var = (v[...].astype(wide) for v in (self.scale, self.bias, self.mean, self.var))
        if self.use_running_average:
            centred = x.astype(wide) - mean
        else:
            axes = tuple(range(x.ndim - 1))
            count = x.size // dim
            if count < 2:
                expected = "more than one in training mode; model.eval() takes the running statistics"
                raise ValueError(f"x: got {count} values for each channel in shape {x.shape}, expected {expected}")
            mean = jnp.mean(x, axes, dtype=wide)
            # The mean is subtracted before squaring: E[x^2] - E[x]^2 cancels.
            centred = x.astype(wide) - mean
            var = jnp.mean(jnp.square(centred), axes)
            self._update(mean, var * (count / (count - 1)))
        return (centred * (jax.lax.rsqrt(var + self.eps) * scale) + bias).astype(x.dtype)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What `nnx.view(model, use_running_average=...)` calls."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _update(self, mean: Float[Array, "d"], var: Float[Array, "d"]) -> None:
        """Moves the running statistics towards those of a batch."""
        for name, running, value in (("running_mean", self.mean, mean), ("running_var", self.var, var)):
            if jnp.finfo(running.dtype).bits < 32:
                expected = "float32 or float64 in training mode, which adds small parts; cast parameters alone"
                raise ValueError(f"{name}: got {running.dtype}, expected {expected}")
            moved = running[...] + self.momentum * (value.astype(running.dtype) - running[...])
            running[...] = jax.lax.stop_gradient(moved)
