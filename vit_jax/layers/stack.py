"""Running a stack of blocks: one by one, or scanned where neighbours or pairs of them are alike.

Twin: `vit_torch/layers/stack.py`.

Blocks are stored one by one in either case, so parameters have the same names and checkpoints are the same files.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from parity.configs import Execution

from .. import random
from ..stacks import stack_layers, take_layers
from .constrain import constrain_batch
from .rope import Rotation

Tokens = Float[Array, "b n d"]


def run_blocks(
    blocks: Sequence[nnx.Module],
    x: Tokens,
    *,
    rotation: Rotation | list[Rotation] | None = None,
    mask: Bool[Array, "*b_nh_n m"] | None = None,
    bias: Float[Array, "*b_nh_n m"] | None = None,
    drop_path_rates: Sequence[float],
    key: random.Key | None = None,
    execution: Execution = Execution(),
    collect: bool = False,
) -> tuple[Tokens, list[Tokens]]:
    """Applies the blocks in order.

    What a block changes of its own variables, such as the statistics of BatchNorm in training mode, is changed in the
    given blocks.

    Args:
        blocks: Modules called as `block(x, rotation=, bias=, keep_rate=, key=, execution=)`, and with `mask=` where
            there is one.
        x: Tokens.
        rotation: The rotation of query and key: one for all blocks, or one for each.
        mask: True where a token may attend to another, in all blocks; broadcastable to (b, nh, n, n).
        bias: What is added to the scores, in all blocks; broadcastable to the same shape.
        drop_path_rates: One for each block.
        key: The key of the random masks; None for none.
        execution: Whether to scan and what to recompute in the backward pass.
        collect: Whether to return the tokens after each block, too.

    Returns:
        The tokens after the last block, and after each block if they are collected.
    """
    x = widened(x, blocks)
    keys = random.split(key, len(blocks))
    # Subtracted before it is rounded, or a mask could differ from the twin's; and not of a fixed type: in a float64
    # model a rate rounded to float32 would be 1e-8 away.
    keep_rates = list(1 - np.asarray(drop_path_rates))
    rates = keep_rates if any(drop_path_rates) else [None] * len(blocks)
    outputs: list[Tokens] = []
    own = rotation if isinstance(rotation, list) else [None] * len(blocks)
    shared = {"rotation": None if isinstance(rotation, list) else rotation, "bias": bias}
    shared |= {} if mask is None else {"mask": mask}
    parts = [(*nnx.split(block), *rest, block) for block, *rest in zip(blocks, keys, rates, own, strict=True)]
    kinds = [_kind(part) if execution.scan else (id(part),) for part in parts]
    for start, stop, period in _groups(kinds):
        graphdefs, *inputs, owners = zip(*parts[start:stop], strict=True)
        members, scanned = list(zip(*inputs, strict=True)), stop - start > 1
        runs = [_body(each, shared, execution, collect=collect, scanned=scanned) for each in graphdefs[:period]]
        if scanned:
            x, (stacked, changes) = _scan(runs, x, jax.tree.map(lambda *leaves: stack_layers(leaves), *members))
            outputs += list(stacked) if collect else []
            changes = _by_layer(changes, len(members))
        else:
            x, (output, *changes) = runs[0](x, members[0])
            outputs += [output] if collect else []
        for block, changed in zip(owners, changes, strict=True):
            if changed:
                nnx.update(block, changed)
    return x, outputs


def widened(x: Tokens, blocks: Sequence[nnx.Module]) -> Tokens:
    """Tokens in the widest type of the first block's parameters, in which blocks add to them.

    In mixed precision it is float32, as under PyTorch's autocast: a branch that LayerScale makes 1e-5 of the tokens
    would vanish in a sum that has 8 bits.
    """
    return x if not blocks else x.astype(jnp.result_type(x, *jax.tree.leaves(nnx.state(blocks[0], nnx.Param))))


def _kind(part: Any) -> Any:
    """Equal for blocks that can be scanned together."""
    graphdef, state, *_ = part
    return graphdef, [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]


def _groups(kinds: Sequence[Any]) -> Iterator[tuple[int, int, int]]:
    """Neighbours that are run together: the first, the one behind the last, and after how many they are alike again.

    Windows move in every second block of a Swin: two blocks are then what is repeated.
    """
    start = 0
    while start < len(kinds):
        stops = {period: _stop(kinds, start, period) for period in (1, 2)}
        period = max(stops, key=lambda period: stops[period])
        yield start, stops[period], period
        start = stops[period]


def _stop(kinds: Sequence[Any], start: int, period: int) -> int:
    """Where what is repeated from some block on ends; that block alone is repeated once."""
    stop, first = start + period, kinds[start : start + period]
    while kinds[stop : stop + period] == first:
        stop += period
    # Two that are not alike are no repetition, and arrays of other shapes can't be stacked.
    is_repeated = stop > start + period and all(kind[1:] == first[0][1:] for kind in first)
    return stop if period == 1 or is_repeated else start + 1


def _scan(runs: Sequence[Callable], x: Tokens, stack: Any) -> tuple[Tokens, Any]:
    """Runs blocks in turn, again and again, over arrays with an axis of layers; what they collect has it, too."""
    period = len(runs)
    if period == 1:
        return jax.lax.scan(runs[0], x, stack)

    def in_turn(x: Tokens, inputs: Any) -> tuple[Tokens, Any]:
        found = []
        for index, run in enumerate(runs):
            x, collected = run(x, jax.tree.map(operator.itemgetter(index), inputs))
            found.append(collected)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    x, found = jax.lax.scan(in_turn, x, jax.tree.map(lambda leaf: leaf.reshape(-1, period, *leaf.shape[1:]), stack))
    return x, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)


def _body(
    graphdef: nnx.GraphDef, shared: dict[str, Any], execution: Execution, *, collect: bool, scanned: bool
) -> Callable:
    """One block as a function of its tokens and of its parameters, key, share that drop path keeps, and rotation.

    It returns the tokens, and what is collected of each block: the tokens, and the variables that it changed.
    """

    def run(x: Tokens, inputs: Any) -> tuple[Tokens, tuple[Tokens | None, nnx.State]]:
        state, key, rate, rotation = inputs
        # Without this the compiler loses the batch sharding inside a scan, and every device computes the whole batch.
        x = constrain_batch(x)
        given = shared if rotation is None else shared | {"rotation": rotation}
        block = nnx.merge(graphdef, state)
        before = _values(block)
        x = block(x, **given, keep_rate=rate, key=key, execution=execution)
        x = constrain_batch(x)
        after = _values(block)
        changed = {path: after[path] for path, value in before.items() if after[path] is not value}
        return x, (x if collect else None, nnx.from_flat_state(changed))

    if execution.remat == "none":
        return run
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(run, policy=dots if execution.remat == "dots" else None, prevent_cse=not scanned)


def _by_layer(stacks: Any, count: int) -> list[Any]:
    """A tree for each layer, of a tree of stacks."""
    leaves, structure = jax.tree.flatten(stacks)
    layers = [take_layers(leaf, count) for leaf in leaves]
    return [jax.tree.unflatten(structure, [each[index] for each in layers]) for index in range(count)]


def _values(block: nnx.Module) -> dict[Any, jax.Array]:
    """The value of each variable by its path."""
    return {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(block))}
