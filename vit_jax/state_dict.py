"""A model's parameters and statistics by canonical name, as NumPy arrays in the canonical layout.

Twin: `vit_torch/state_dict.py`. The correspondence is a property of the layers (`leaves`); no model has a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.checkpoints import account, dtypes_of, expect_floats, shapes_of, slice_of
from parity.checkpoints.leaf import Leaf

from .models import Model

# A parameter's canonical name, its shape and what reads a part of its value -> the parameter.
Place = Callable[[str, tuple[int, ...], Callable[..., np.ndarray]], jax.Array]


def named_leaves(model: nnx.Module) -> Iterator[tuple[str, nnx.Variable, Leaf, nnx.Module]]:
    """Canonical name, variable, rule and owner of each parameter and statistic, in the order of the path."""
    for path, module in nnx.iter_modules(model):
        rules = getattr(type(module), "leaves", {})
        for attribute, variable in vars(module).items():
            if isinstance(variable, nnx.Param | nnx.BatchStat):
                axes = " ".join(f"a{i}" for i in range(variable.ndim))
                rule = rules.get(attribute, Leaf(attribute, f"{axes} -> {axes}"))
                yield ".".join(map(str, (*path, rule.name))), variable, rule, module


def canonical_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of each parameter and statistic; allocates nothing, so the model may be abstract."""
    return {name: rule.canonical_shape(variable.shape) for name, variable, rule, _ in named_leaves(model)}


def state_dict(model: Model) -> dict[str, np.ndarray]:
    """Each parameter and statistic in the canonical layout."""
    return {name: rule.to_canonical(np.asarray(variable[...])) for name, variable, rule, _ in named_leaves(model)}


def load_state_dict(
    model: Model,
    tensors: Mapping[str, np.ndarray],
    *,
    source: str = "the tensors",
    place: Place | None = None,
) -> None:
    """Sets every parameter and statistic, in the precision of the tensors.

    Args:
        model: Concrete or abstract; changed in place.
        tensors: The tensors by canonical name, in the canonical layout; read one after another, so they may be lazy.
        source: What to call the tensors in an error.
        place: Makes a device array of a parameter's canonical name, its shape, and a function that reads the part of
            its value at a slice for each axis; by default all of it goes to the default device.

    Raises:
        CheckpointError: Missing, unexpected or misshapen tensors, or tensors of whole numbers, all in one report; the
            model is unchanged.
    """
    account(canonical_shapes(model), shapes_of(tensors), source=source)
    expect_floats(dtypes_of(tensors), source=source)
    for name, variable, rule, _ in list(named_leaves(model)):
        read = partial(_read, tensors, name, rule, variable.shape)
        variable.set_value(jnp.asarray(read()) if place is None else place(name, variable.shape, read))


def _read(
    tensors: Mapping[str, np.ndarray], name: str, rule: Leaf, shape: tuple[int, ...], index: tuple[slice, ...] = ()
) -> np.ndarray:
    """A part of a parameter's value, by default all of it."""
    whole = all(part.indices(size) == (0, size, 1) for part, size in zip(index, shape, strict=False))
    if whole:
        return rule.from_canonical(np.asarray(tensors[name]), shape)
    return rule.read_part(partial(slice_of, tensors, name), shape, index)
