"""A model as a function of its parameters and statistics, which are flat dictionaries by canonical name.

What jit, gradients, optimisers and training checkpoints see is those dictionaries: arrays in the Flax layout under the
names that the twin and the native checkpoint use. PyTorch has `torch.func.functional_call` for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax
from flax import nnx

from .stacks import unstacked
from .state_dict import named_leaves

Params = dict[str, jax.Array]
AnyModule = TypeVar("AnyModule", bound=nnx.Module)


def params_of(model: nnx.Module) -> Params:
    """The arrays that are differentiated, by canonical name."""
    return {
        name: variable.get_value() for name, variable, _, _ in named_leaves(model) if isinstance(variable, nnx.Param)
    }


def statistics_of(model: nnx.Module) -> Params:
    """The running statistics of BatchNorm, by canonical name; empty for a model without."""
    return {
        name: variable.get_value()
        for name, variable, _, _ in named_leaves(model)
        if isinstance(variable, nnx.BatchStat)
    }


def bind(
    model: AnyModule, params: Mapping[str, jax.Array], statistics: Mapping[str, jax.Array] | None = None
) -> AnyModule:
    """A new model with these arrays; the given one, which may be abstract, is unchanged.

    Args:
        model: A model, whose structure and mode the new one has.
        params: Every parameter by canonical name, or, of `vit_jax.stacks`, as a part of a stack.
        statistics: Every statistic likewise; None keeps the model's own.
    """
    params, statistics = unstacked(params), None if statistics is None else unstacked(statistics)
    bound = nnx.clone(model)
    for name, variable, _, _ in list(named_leaves(bound)):
        if isinstance(variable, nnx.Param):
            variable.set_value(params[name])
        elif statistics is not None:
            variable.set_value(statistics[name])
    return bound
