"""Mixup and cutmix of neighbouring rows, with the numbers of `parity/data/mix_draws.py`. Twin: `vit_torch/mix.py`.

Sources: Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def mix_images(
    images: Float[Array, "b h w c"], lam: Float[Array, "b"], box: Int[Array, "b 4"]
) -> Float[Array, "b h w c"]:
    """Each image with its partner's box; where the box is empty, `lam` of the image and the rest of its partner.

    Args:
        images: The normalised images.
        lam: Share of the image itself.
        box: Top, left, bottom and right, in pixels.
    """
    height, width = images.shape[1:3]
    top, left, bottom, right = (box[:, i, None, None] for i in range(4))
    rows, columns = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    weight = jnp.where(bottom > top, ~inside, lam[:, None, None]).astype(images.dtype)[:, :, :, None]
    return images * weight + _partners(images) * (1 - weight)


def mix_targets(
    labels: Int[Array, "b"], lam: Float[Array, "b"], *, num_classes: int, dtype: jnp.dtype
) -> Float[Array, "b classes"]:
    """Probabilities of the classes: `lam` of the image's own, the rest of its partner's."""
    targets = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    weight = lam.astype(dtype)[:, None]
    return targets * weight + _partners(targets) * (1 - weight)


def _partners(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Rows 2i and 2i + 1 exchanged."""
    return jnp.flip(x.reshape(-1, 2, *x.shape[1:]), axis=1).reshape(x.shape)
