"""Operations of PyTorch in fewer bits than their tensors have: what TF32, bfloat16 and careless casts do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Round = Callable[[Tensor], Tensor]

MATMULS = {
    F.linear,
    F.conv2d,
    F.scaled_dot_product_attention,
    torch.baddbmm,
    torch.bmm,
    torch.conv2d,
    torch.einsum,
    torch.matmul,
    Tensor.__matmul__,
    Tensor.bmm,
    Tensor.matmul,
}
SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


class Rounded(TorchFunctionMode):
    """While it is active, some operations round what they are given.

    Args:
        operations: Functions of PyTorch.
        to: What is done to their first two tensors; or a type in which they run, to return to the tensors' own.
        result: Whether the result is rounded, too.
    """

    def __init__(self, operations: Iterable[Any], to: Round | torch.dtype, *, result: bool = False):
        super().__init__()
        self._operations = set(operations)
        self._to = to
        self._result = result

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation."""
        kwargs = kwargs or {}
        if func not in self._operations:
            return func(*args, **kwargs)
        operands = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        if isinstance(self._to, torch.dtype):
            low = [arg.to(self._to) if i in operands else arg for i, arg in enumerate(args)]
            return func(*low, **kwargs).to(args[operands[0]].dtype)
        rounded = [self._to(arg) if i in operands[:2] else arg for i, arg in enumerate(args)]
        output = func(*rounded, **kwargs)
        return self._to(output) if self._result else output


def to_mantissa(bits: int) -> Round:
    """Rounds to nearest with so many bits behind the point: 10 is TF32, 7 bfloat16."""

    def to(x: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)

    return to


def run_rounded(module: nn.Module, mode: Callable[[], TorchFunctionMode], method: str = "forward") -> None:
    """Makes one method of a module run under a mode; changes the module."""
    original = getattr(module, method)

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode():
            return original(*args, **kwargs)

    setattr(module, method, run)


def run_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Makes a module of one tensor compute in another type; changes the module."""
    low = copy.deepcopy(module).to(dtype)
    module.forward = lambda x: low(x.to(dtype)).to(x.dtype)
