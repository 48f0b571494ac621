"""Random numbers of a forward pass: the same key gives the same masks in both frameworks.

A key is JAX's threefry key, or `GLOBAL`, which draws from PyTorch's own generator: faster, and what `model.train()`
uses when no key is given. Twin: `vit_jax/random.py`.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Threefry-2x32, 20 rounds), and the counter
layout of `jax_threefry_partitionable`, JAX's default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_ROTATIONS: Final = ((13, 15, 26, 6), (17, 29, 16, 24))
_WORD: Final = 0xFFFFFFFF
# Counters at a time on a CPU, so that what they become stays in its cache.
_CHUNK: Final = 1 << 18


@dataclass(frozen=True)
class Threefry:
    """JAX's key.

    Attributes:
        words: Two of 32 bits, in int64 (2,).
        first_row: Number, in the whole batch, of the first row that this process holds; its masks are of its rows.
    """

    words: Tensor
    first_row: int = 0


class Global:
    """Stands for PyTorch's own generator."""


GLOBAL: Final = Global()
Key = Threefry | Global


def key(seed: int) -> Key:
    """The key of a seed."""
    return Threefry(torch.tensor([seed >> 32 & _WORD, seed & _WORD], dtype=torch.int64))


def split(key: Key | None, num: int) -> list[Key] | list[None]:
    """`num` independent keys; of None, which stands for no randomness, as many None."""
    if key is None:
        return [None] * num
    if isinstance(key, Global):
        return [key for _ in range(num)]
    words = torch.stack([word.long() & _WORD for word in _threefry(key.words, 0, num)], dim=1)
    return [Threefry(each, key.first_row) for each in words]


def fold_in(key: Key, number: int) -> Key:
    """Another key for each number, from 0 to 2**32 - 1."""
    if isinstance(key, Global):
        return key
    return Threefry(torch.cat([word.long() & _WORD for word in _threefry(key.words, number, 1)]), key.first_row)


def uniform(key: Key, shape: tuple[int, ...], device: torch.device | None = None, *, start: int = 0) -> Tensor:
    """Values in [0, 1), float32 whatever the model's precision; `start` leaves out the first ones."""
    if isinstance(key, Global):
        return torch.rand(shape, dtype=torch.float32, device=device)
    count = math.prod(shape)
    bits = torch.empty(count, dtype=torch.int32, device=device)
    chunk = _CHUNK if bits.device.type == "cpu" else max(1, count)
    for first in range(0, count, chunk):
        part = bits[first : first + chunk]
        torch.bitwise_xor(*_threefry(key.words, start + first, len(part), device), out=part)
    # 23 bits of mantissa in [1, 2), then down to [0, 1): JAX's way, which never gives 1.
    bits.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000)
    return (bits.view(torch.float32) - 1).reshape(shape)


def keep_mask(key: Key, keep_rate: float, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Booleans (b, ...), True with probability `keep_rate`, decided in float32 whatever the model's precision."""
    start = 0 if isinstance(key, Global) else key.first_row * math.prod(shape[1:])
    return uniform(key, shape, device, start=start) < torch.tensor(keep_rate, dtype=torch.float32, device=device)


def _threefry(key: Tensor, start: int, count: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Two 32-bit words for each of `count` counters from `start`: int32 that wraps around, changed in place."""
    one, two = (int(word) for word in key)
    words = [one, two, one ^ two ^ 0x1BD11BDA]
    counter = torch.arange(start, start + count, dtype=torch.int64, device=device)
    first, second = (counter >> 32).int().add_(_signed(one)), counter.int().add_(_signed(two))
    low = torch.empty_like(second)
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first.add_(second)
            # The shift to the right brings copies of the sign, which aren't part of a rotation.
            torch.bitwise_right_shift(second, 32 - rotation, out=low).bitwise_and_((1 << rotation) - 1)
            second.bitwise_left_shift_(rotation).bitwise_or_(low).bitwise_xor_(first)
        first.add_(_signed(words[(group + 1) % 3]))
        second.add_(_signed(words[(group + 2) % 3] + group + 1))
    return first, second


def _signed(word: int) -> int:
    """A word of 32 bits, or a sum of such, as int32 holds it."""
    return ((word & _WORD) ^ 0x80000000) - 0x80000000
