"""Running a stack of blocks one by one. Twin: `vit_jax/layers/stack.py`, which can also scan them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from parity.configs import Execution

from .. import random
from .rope import Rotation

Tokens = Float[Tensor, "b n d"]


def run_blocks(
    blocks: nn.ModuleList,
    x: Tokens,
    *,
    rotation: Rotation | list[Rotation] | None = None,
    mask: Bool[Tensor, "*b_nh_n m"] | None = None,
    bias: Float[Tensor, "*b_nh_n m"] | None = None,
    drop_path_rates: Sequence[float],
    key: random.Key | None = None,
    execution: Execution = Execution(),
    collect: bool = False,
) -> tuple[Tokens, list[Tokens]]:
    """Applies the blocks in order.

    What a block changes in place of its own buffers, such as the statistics of BatchNorm in training mode, is changed
    once, though the backward pass may run the block again.

    Args:
        blocks: Modules called as `block(x, rotation=, bias=, keep_rate=, key=, execution=)`, and with `mask=` where
            there is one.
        x: Tokens.
        rotation: The rotation of query and key: one for all blocks, or one for each.
        mask: True where a token may attend to another, in all blocks; broadcastable to (b, nh, n, n).
        bias: What is added to the scores, in all blocks; broadcastable to the same shape.
        drop_path_rates: One for each block.
        key: The key of the random masks; None for none.
        execution: What to recompute in the backward pass.
        collect: Whether to return the tokens after each block, too.

    Returns:
        The tokens after the last block, and after each block if they are collected.
    """
    x = widened(x, blocks)
    keys = random.split(key, len(blocks))
    rates = [1 - rate if any(drop_path_rates) else None for rate in drop_path_rates]
    rotations = rotation if isinstance(rotation, list) else [rotation] * len(blocks)
    shared = {"bias": bias} | ({} if mask is None else {"mask": mask})
    outputs: list[Tokens] = []
    for block, block_key, rate, own in zip(blocks, keys, rates, rotations, strict=True):
        run = _body(block, execution)
        x = run(x, rotation=own, **shared, keep_rate=rate, key=block_key, execution=execution)
        outputs += [x] if collect else []
    return x, outputs


def widened(x: Tokens, blocks: nn.ModuleList) -> Tokens:
    """Tokens in the widest type of the first block's parameters, in which blocks add to them.

    In mixed precision it is float32, as under PyTorch's autocast: a branch that LayerScale makes 1e-5 of the tokens
    would vanish in a sum that has 8 bits.
    """
    types = [value.dtype for block in blocks[:1] for value in block.parameters()]
    return x.to(functools.reduce(torch.promote_types, types, x.dtype))


def _body(block: nn.Module, execution: Execution) -> Callable[..., Tokens]:
    """One block, or one that forgets its activations until the backward pass."""
    if execution.remat == "none":
        return block

    def run(x: Tokens, **options: Any) -> Tokens:
        # What `torch.func.functional_call` has put in the place of parameters is gone when the block is run again.
        given = {name: value for name, value in block.named_parameters() if not isinstance(value, nn.Parameter)}
        buffers = dict(block.named_buffers())
        if not given and not buffers:
            return checkpoint(block, x, use_reentrant=False, **options)
        before = {name: value.clone() for name, value in buffers.items()}
        x, after = checkpoint(_on_copies, block, given, before, x, use_reentrant=False, **options)
        if any(module.training for module in block.modules()):
            with torch.no_grad():
                for name, value in after.items():
                    buffers[name].copy_(value)
        return x

    return run


def _on_copies(
    block: nn.Module, given: dict[str, Tensor], buffers: dict[str, Tensor], x: Tokens, **options: Any
) -> tuple[Tokens, dict[str, Tensor]]:
    """What the block returns, and its buffers thereafter: it runs on copies, so that running again changes nothing."""
    copies = {name: value.clone() for name, value in buffers.items()}
    return functional_call(block, {**given, **copies}, (x,), options), copies
