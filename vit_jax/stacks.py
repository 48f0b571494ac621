"""Tensors of blocks that are alike as one array, which is what a scan runs over and what the state of its run holds.

Where blocks are scanned, a state has one array for `blocks.0-11.attn.qkv.weight`, with an axis of layers in front, in
place of twelve: optimiser and average are then written once, however deep the model is. Models and files have each
tensor by its own name, as ever.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

Shape = tuple[int, ...]
_BLOCK = re.compile(r"((?:.*\.)?blocks\.)(\d+)(\..*)")
_STACK = re.compile(r"((?:.*\.)?blocks\.)(\d+)-(\d+)(\..*)")
# Of each layer that was taken, by its identity: the array it was taken from, and which one it is.
_TAKEN: dict[int, tuple[weakref.ref[jax.Array], jax.Array, int]] = {}


def stack_names(tensors: Mapping[str, Any]) -> list[str]:
    """The names of tensors, those of neighbouring blocks that have the same tensors as one.

    Args:
        tensors: Anything with a shape, by canonical name.
    """
    blocks: dict[tuple[str, int], dict[str, Shape]] = {}
    found = []
    for name, tensor in tensors.items():
        if match := _BLOCK.fullmatch(name):
            prefix, index, rest = match.groups()
            blocks.setdefault((prefix, int(index)), {})[rest] = tensor.shape
        else:
            found.append(name)
    for (prefix, shapes), group in itertools.groupby(blocks, key=lambda block: (block[0], blocks[block])):
        indices = [index for _, index in group]
        which = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
        found += [f"{prefix}{which}{rest}" for rest in shapes]
    return found


def members(name: str) -> list[str]:
    """The names of the tensors in a stack, by its name; of any other tensor, its own."""
    match = _STACK.fullmatch(name)
    if match is None:
        return [name]
    prefix, first, last, rest = match.groups()
    return [f"{prefix}{index}{rest}" for index in range(int(first), int(last) + 1)]


def layer_shape(name: str, shape: Shape) -> Shape:
    """The shape of each tensor in a stack, by its name and shape; of any other tensor, its own."""
    return shape[1:] if _STACK.fullmatch(name) else shape


def stacked(tree: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The tensors of some names, which may be those of stacks, from the tensors by their own names.

    Args:
        tree: Arrays of JAX or NumPy, or shapes and shardings of such.
        names: The names, such as `stack_names` gives.
    """
    found = {}
    for name in names:
        each = [tree[member] for member in members(name)]
        found[name] = stack_layers(each) if _STACK.fullmatch(name) else each[0]
    return found


def unstacked(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stacked`: each tensor by its own name."""
    found = {}
    for name, value in tree.items():
        each = take_layers(value, len(members(name))) if _STACK.fullmatch(name) else [value]
        found |= dict(zip(members(name), each, strict=True))
    return found


def stacked_like(state: Any, like: Any) -> Any:
    """A state whose dictionaries have the names that another one's have; see `stacked`."""
    return _map_dictionaries(stacked, state, like)


def unstacked_state(state: Any) -> Any:
    """A state with each tensor of its dictionaries by its own name; see `unstacked`."""
    return _map_dictionaries(lambda tree, _: unstacked(tree), state, state)


def take_layers(stack: Any, count: int) -> list[Any]:
    """The layers of an array, a shape or a sharding; of a traced array `stack_layers` knows where they are from."""
    if isinstance(stack, NamedSharding):
        return [NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:]))] * count
    if isinstance(stack, jax.ShapeDtypeStruct):
        sharding = stack.sharding and take_layers(stack.sharding, 1)[0]
        return [jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype, sharding=sharding)] * count
    if _is_placed(stack):
        return list(_take(stack.sharding, count)(stack))
    layers = [stack[index] for index in range(count)]
    for index, layer in enumerate(layers) if isinstance(stack, jax.Array) else ():
        key = id(layer)
        _TAKEN[key] = weakref.ref(layer, lambda _, key=key: _TAKEN.pop(key, None)), stack, index
    return layers


def stack_layers(layers: Sequence[Any]) -> Any:
    """Layers as one: the array they were taken from, or a part of it, and a copy only where they are from others."""
    first = layers[0]
    if isinstance(first, NamedSharding):
        return NamedSharding(first.mesh, PartitionSpec(None, *first.spec))
    if isinstance(first, jax.ShapeDtypeStruct):
        sharding = first.sharding and stack_layers([first.sharding])
        return jax.ShapeDtypeStruct((len(layers), *first.shape), first.dtype, sharding=sharding)
    if isinstance(first, np.ndarray | np.generic):
        return np.stack(layers)
    if _is_placed(first):
        return _put_together(first.sharding)(*layers)
    stack, start = _origin(first)
    for index, layer in enumerate(layers):
        origin, place = _origin(layer)
        if stack is None or origin is not stack or place != start + index:
            return jnp.stack(layers)
    return stack if len(layers) == len(stack) else stack[start : start + len(layers)]


def _origin(layer: Any) -> tuple[Any, int]:
    """What a layer was taken from, and which one it is; None if it wasn't."""
    known = _TAKEN.get(id(layer))
    return (None, 0) if known is None or known[0]() is not layer else known[1:]


def _is_placed(array: Any) -> bool:
    return isinstance(array, jax.Array) and not isinstance(array, Tracer)


@lru_cache
def _take(sharding: jax.sharding.Sharding, count: int) -> Any:
    shardings = tuple(take_layers(sharding, count)) if isinstance(sharding, NamedSharding) else None
    return jax.jit(lambda stack: tuple(stack[index] for index in range(count)), out_shardings=shardings)


@lru_cache
def _put_together(sharding: jax.sharding.Sharding) -> Any:
    stacks = stack_layers([sharding]) if isinstance(sharding, NamedSharding) else None
    return jax.jit(lambda *layers: jnp.stack(layers), out_shardings=stacks)


def _map_dictionaries(function: Any, state: Any, like: Any) -> Any:
    """Applies a function of two dictionaries to the innermost ones of two trees."""

    def one(node: Any, other: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if any(isinstance(value, dict) for value in node.values()):
            return {name: one(value, other[name]) for name, value in node.items()}
        return function(node, other)

    return jax.tree.map(one, state, like, is_leaf=lambda node: isinstance(node, dict))
