"""Maps to the tokens of their patches and back. Twin: `vit_jax/layers/unfold.py`.

Source: Mehta and Rastegari 2021, arXiv:2110.02178, section 3.1: tokens (b, d, p, n) of p places in a patch and n
patches, row by row. Patches don't divide every map: the authors' code makes such a map larger first, by bilinear
interpolation, whose corners coincide with the map's in their second version (`align_corners`) and not in their first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from parity.checkpoints.resize import resize_matrix

Map = Float[Tensor, "b d h w"]
Tokens = Float[Tensor, "b d p n"]

# What `parity.checkpoints.resize` calls these interpolations.
KERNELS = {"bilinear": "bilinear", "align_corners": "zoom"}


def unfold(x: Map, patch_size: tuple[int, int]) -> Tokens:
    """The tokens of a map whose sides patches divide."""
    (b, d, height, width), (down, across) = x.shape, patch_size
    x = x.reshape(b, d, height // down, down, width // across, across)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(b, d, down * across, -1)


def fold(x: Tokens, size: tuple[int, int], patch_size: tuple[int, int]) -> Map:
    """The map of height and width `size` that tokens are of; the inverse of `unfold`."""
    (b, d, _, _), (down, across) = x.shape, patch_size
    x = x.reshape(b, d, down, across, size[0] // down, size[1] // across)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(b, d, *size)


def whole_size(size: tuple[int, int], patch_size: tuple[int, int], fit: str) -> tuple[int, int]:
    """The height and width nearest to those of a map that patches divide.

    Args:
        size: Height and width of the map.
        patch_size: Height and width of a patch.
        fit: `zeros` for what the map has of whole patches; else the map is to become larger.

    Raises:
        ValueError: The map has no whole patch.
    """
    rounding = math.floor if fit == "zeros" else math.ceil
    height, width = (rounding(side / patch) * patch for side, patch in zip(size, patch_size, strict=True))
    if not height or not width:
        raise ValueError(f"x: got a map of {size[0]} x {size[1]}, expected at least a patch {patch_size}")
    return height, width


def fitted(x: Map, size: tuple[int, int], fit: str) -> Map:
    """A map of another height and width, interpolated in float32 or better and rounded once.

    Args:
        x: A map.
        size: Height and width of the result.
        fit: `bilinear` or `align_corners`; `zeros` cuts off what is too much and puts zeros where there is too little.
    """
    if x.shape[2:] == size:
        return x
    if fit == "zeros":
        more = [max(side - own, 0) for side, own in zip(size, x.shape[2:], strict=True)]
        return F.pad(x[:, :, : size[0], : size[1]], (0, more[1], 0, more[0]))
    wide = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (
        torch.from_numpy(resize_matrix(old, new, KERNELS[fit])).to(x.device, wide)
        for old, new in zip(x.shape[2:], size, strict=True)
    )
    return torch.einsum("ih,jw,bdhw->bdij", rows, columns, x.to(wide)).to(x.dtype)
