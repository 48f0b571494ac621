"""Mixup and cutmix of neighbouring rows, with the numbers of `parity/data/mix_draws.py`. Twin: `vit_jax/mix.py`.

Sources: Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def mix_images(
    images: Float[Tensor, "b c h w"], lam: Float[Tensor, "b"], box: Int[Tensor, "b 4"]
) -> Float[Tensor, "b c h w"]:
    """Each image with its partner's box; where the box is empty, `lam` of the image and the rest of its partner.

    Args:
        images: The normalised images.
        lam: Share of the image itself.
        box: Top, left, bottom and right, in pixels.
    """
    height, width = images.shape[2:4]
    top, left, bottom, right = (box[:, i, None, None] for i in range(4))
    rows, columns = (torch.arange(size, device=box.device) for size in (height, width))
    rows, columns = rows[None, :, None], columns[None, None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    weight = torch.where(bottom > top, ~inside, lam[:, None, None]).to(images.dtype)[:, None, :, :]
    return images * weight + _partners(images) * (1 - weight)


def mix_targets(
    labels: Int[Tensor, "b"], lam: Float[Tensor, "b"], *, num_classes: int, dtype: torch.dtype
) -> Float[Tensor, "b classes"]:
    """Probabilities of the classes: `lam` of the image's own, the rest of its partner's."""
    targets = torch.nn.functional.one_hot(labels.long(), num_classes).to(dtype)
    weight = lam.to(dtype)[:, None]
    return targets * weight + _partners(targets) * (1 - weight)


def _partners(x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Rows 2i and 2i + 1 exchanged."""
    return x.reshape(-1, 2, *x.shape[1:]).flip(1).reshape(x.shape)
