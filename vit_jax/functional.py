"""A model as a function of its parameters, which are a flat dictionary by canonical name.

What jit, gradients, optimisers and training checkpoints see is that dictionary: arrays in the Flax layout under the
names that the twin and the native checkpoint use. PyTorch has `torch.func.functional_call` for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
from flax import nnx

from .models import Model
from .state_dict import named_leaves

Params = dict[str, jax.Array]


def params_of(model: Model) -> Params:
    """The arrays of a model by canonical name."""
    return {name: variable[...] for name, variable in _parameters(model)}


def bind(model: Model, params: Mapping[str, jax.Array]) -> Model:
    """A new model with these parameters; the given one, which may be abstract, is unchanged."""
    bound = nnx.clone(model)
    for name, variable in list(_parameters(bound)):
        variable.set_value(params[name])
    return bound


def _parameters(model: Model) -> Iterator[tuple[str, nnx.Param]]:
    """Statistics aren't differentiated; they stay with the model."""
    for name, variable, _, _ in named_leaves(model):
        if isinstance(variable, nnx.Param):
            yield name, variable
