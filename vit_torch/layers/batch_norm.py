"""BatchNorm: by the batch's statistics in training, by the running ones in evaluation.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2. Over all axes but the channels,

    y = (x - mean) / sqrt(var + eps) * weight + bias

where training takes mean and variance of the batch and moves the running ones towards them,

    running = running + momentum * (batch - running)

and evaluation takes the running ones. Twin: `vit_jax/layers/batch_norm.py`.

Deviations: those of PyTorch from the paper. The batch is divided by the root of its biased variance (the mean of n
squares), and the running variance moves towards the unbiased one (n - 1 for n). From `torch.nn.BatchNorm2d` it differs
in several processes, where it is `torch.nn.SyncBatchNorm` on any device, and in that it doesn't count batches.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..parallel import sum_over_processes


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes, in float32 or better.

    `model.train()` and `model.eval()` choose between the batch's statistics, which also change the running ones
    `running_mean` and `running_var` in place, and the running ones, which then stay. Where `torch.distributed` is in
    use, the batch of training mode is that of all processes, which must then run the layer together.

    Args:
        dim: The number of channels, the second axis.
        eps: What is added to the variance.
        momentum: The share of the new batch in the running statistics, as in PyTorch; Flax and Keras call 1 minus it
            the momentum.
        init: The start value of every scale.

    Raises:
        ValueError: The momentum isn't a share.
    """

    channels_first: ClassVar = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, *, eps: float = 1e-5, momentum: float = 0.1, init: float = 1.0):
        super().__init__()
        if not (isinstance(momentum, int | float) and 0 <= momentum <= 1):
            raise ValueError(f"momentum: got {momentum!r}, expected a share from 0 to 1, that of the new batch")
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((dim,), init))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Float[Tensor, "b d *rest"]) -> Float[Tensor, "b d *rest"]:
        """Normalises each channel; in training mode changes the running statistics, too.

        Raises:
            ValueError: Another number of channels, or in training mode a single value for each of them, or running
                statistics of fewer bits than float32.
        """
        dim = self.running_mean.shape[0]
        if x.ndim < 2 or x.shape[1] != dim:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (batch, {dim}, ...)")
        wide = torch.promote_types(x.dtype, torch.float32)
        shape = (dim, *[1] * (x.ndim - 2))
        values = (self.weight, self.bias, self.running_mean, self.running_var)
        scale, bias, mean, var = (v.to(wide).reshape(shape) for v in values)
        if not self.training:
            centred = x.to(wide) - mean
        else:
            axes = [0, *range(2, x.ndim)]
            count = x.numel() // dim
            # The number of values is summed, too: processes may have unequal parts of the batch.
            sums = sum_over_processes(torch.cat([x.sum(axes, dtype=wide), bias.new_full((1,), count)]))
            total = sums[-1].detach()
            if count < 2 and total < 2:
                expected = "more than one in training mode; model.eval() takes the running statistics"
                got = f"{int(total)} values for each channel in shape {tuple(x.shape)}"
                raise ValueError(f"x: got {got}, expected {expected}")
            mean = sums[:-1] / total
            # The mean is subtracted before squaring: E[x^2] - E[x]^2 cancels.
            centred = x.to(wide) - mean.reshape(shape)
            var = sum_over_processes(torch.square(centred).sum(axes)) / total
            self._update(mean, var * (total / (total - 1)))
            var = var.reshape(shape)
        return (centred * (torch.rsqrt(var + self.eps) * scale) + bias).to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Float[Tensor, "d"], var: Float[Tensor, "d"]) -> None:
        """Moves the running statistics towards those of a batch."""
        statistics = (("running_mean", self.running_mean, mean), ("running_var", self.running_var, var))
        for name, running, value in statistics:
            if torch.finfo(running.dtype).bits < 32:
                expected = "float32 or float64 in training mode, which adds small parts; cast parameters alone"
                raise ValueError(f"{name}: got {running.dtype}, expected {expected}")
            running.add_(self.momentum * (value.to(running.dtype) - running))
