"""Rotary positions of query and key. Twin: `vit_jax/layers/rope.py`.

Sources: Su et al. 2021, arXiv:2104.09864, and those of `parity/configs/rope.py`, which has the angles.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parity.configs import VitConfig
from parity.configs.rope import coordinates, frequencies

from .. import random

# Sine and cosine of each patch's angles, for all heads or for each.
Rotation = tuple[Float[Tensor, "n nh f"], Float[Tensor, "n nh f"]]


def rotate(x: Float[Tensor, "b n nh hd"], rotation: Rotation, *, half: bool) -> Float[Tensor, "b n nh hd"]:
    """Rotates pairs of channels of the patches, which are the last tokens; in float32 or better.

    Args:
        x: Query or key of all tokens.
        rotation: Of the patches alone.
        half: Whether pairs are channels i and i + hd / 2, or neighbours.
    """
    sin, cos = rotation
    prefix, x = x[:, : -sin.shape[0]], x[:, -sin.shape[0] :]
    pairs = x.unflatten(-1, (2, -1) if half else (-1, 2))
    axis = -2 if half else -1
    first, second = pairs.select(axis, 0), pairs.select(axis, 1)
    rotated = torch.stack([first * cos - second * sin, second * cos + first * sin], axis)
    return torch.cat([prefix, rotated.flatten(-2).to(x.dtype)], dim=1)


class RotaryEmbedding(nn.Module):
    """The rotation of each patch of a grid.

    Args:
        config: Of the model that the layer is part of.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        assert config.rope is not None  # the model makes this layer for such configs alone
        self.rope = config.rope
        self.head_dim = config.head_dim
        self.learned = config.rope.kind == "mixed"
        if self.learned:
            # Two orthogonal directions of a random angle for each block and head.
            magnitude = torch.tensor(frequencies(config.rope, config.head_dim), dtype=torch.float32)
            turn = torch.rand(config.depth, config.num_heads, 1) * 2 * math.pi
            angles = torch.stack([turn, turn + math.pi / 2], dim=2)
            parts = [magnitude * f(angles) for f in (torch.cos, torch.sin)]
            self.freqs = nn.Parameter(torch.stack([part.flatten(2) for part in parts]))

    def forward(
        self, grid_size: tuple[int, int], *, dtype: torch.dtype, device: torch.device, key: random.Key | None = None
    ) -> Rotation | list[Rotation]:
        """The rotation that all blocks share, or with learned frequencies one for each block.

        Args:
            grid_size: Patches down and across.
            dtype: Of the model; the rotation is in float32 or better.
            device: Of the model.
            key: Of the coordinates' augmentation; None for none.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        positions = torch.tensor(coordinates(self.rope, grid_size), dtype=dtype, device=device)
        if key is not None and self.rope.rescale is not None:
            exponent = 2 * random.uniform(key, (), device).to(dtype) - 1
            positions = positions * torch.exp(exponent * math.log(self.rope.rescale))
        if not self.learned:
            scale = torch.tensor(frequencies(self.rope, self.head_dim), dtype=dtype, device=device)
            angles = (positions[:, :, None] * scale).reshape(positions.shape[0], 1, -1)
            return torch.sin(angles), torch.cos(angles)
        freqs = self.freqs.to(dtype)
        angles = positions[:, :1, None] * freqs[0, :, None] + positions[:, 1:, None] * freqs[1, :, None]
        return [(torch.sin(block), torch.cos(block)) for block in angles]
