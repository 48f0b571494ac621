"""Which of the processes that train together this is, and sums over all of them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def processes() -> tuple[int, int]:
    """This process's number, and the number of processes: (0, 1) where `torch.distributed` isn't in use."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def process_rows(batch_size: int) -> range:
    """The rows of a global batch that this process holds.

    Raises:
        ValueError: The processes don't divide the batch.
    """
    rank, world = processes()
    if batch_size % world:
        raise ValueError(f"batch_size: got {batch_size}, expected a multiple of {world}, the number of processes")
    rows = batch_size // world
    return range(rank * rows, (rank + 1) * rows)


def sum_over_processes(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum of all processes' tensors of one shape, equal in each of them; the tensor itself where there is one.

    Every process must call it, in the same order. The gradient is that of the sum of all processes' losses: it is
    summed in the backward pass, which every process must run, too.
    """
    return x if processes()[1] == 1 else _Sum.apply(x)


class _Sum(torch.autograd.Function):
    """`torch.distributed.nn.functional.all_reduce` is deprecated, and what is to replace it isn't public."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Sum.apply(grads[0])
