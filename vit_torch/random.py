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
    words = torch.stack(_threefry(key.words, torch.arange(num, device=key.words.device)), dim=1)
    return [Threefry(each, key.first_row) for each in words]


def fold_in(key: Key, number: int) -> Key:
    """Another key for each number, from 0 to 2**32 - 1."""
    if isinstance(key, Global):
        return key
    counter = torch.tensor([number], device=key.words.device)
    return Threefry(torch.cat(_threefry(key.words, counter)), key.first_row)


def uniform(key: Key, shape: tuple[int, ...], device: torch.device | None = None, *, start: int = 0) -> Tensor:
    """Values in [0, 1), float32 whatever the model's precision; `start` leaves out the first ones."""
    if isinstance(key, Global):
        return torch.rand(shape, dtype=torch.float32, device=device)
    words = key.words.to(device) if device else key.words
    first, second = _threefry(words, torch.arange(start, start + math.prod(shape), device=words.device))
    # 23 bits of mantissa in [1, 2), then down to [0, 1): JAX's way, which never gives 1.
    mantissa = ((first ^ second) >> 9 | 0x3F800000).to(torch.int32)
    return (mantissa.view(torch.float32) - 1).reshape(shape)


def keep_mask(key: Key, keep_rate: float, shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Booleans (b, ...), True with probability `keep_rate`, decided in float32 whatever the model's precision."""
    start = 0 if isinstance(key, Global) else key.first_row * math.prod(shape[1:])
    return uniform(key, shape, device, start=start) < torch.tensor(keep_rate, dtype=torch.float32, device=device)


def _threefry(key: Tensor, counter: Tensor) -> tuple[Tensor, Tensor]:
    """Two 32-bit words, held in int64, for each counter."""
    words = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA]
    first, second = (counter >> 32) + words[0] & _WORD, (counter & _WORD) + words[1] & _WORD
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first = first + second & _WORD
            second = (second << rotation & _WORD | second >> 32 - rotation) ^ first
        first = first + words[(group + 1) % 3] & _WORD
        second = second + words[(group + 2) % 3] + group + 1 & _WORD
    return first, second
