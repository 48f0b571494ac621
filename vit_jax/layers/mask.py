"""Masked patches: replaced by a learned token, or left out. Twin: `vit_torch/layers/mask.py`.

Sources: a token for each masked patch in BEiT (Bao et al. 2021, arXiv:2106.08254, section 2.3), iBOT and DINOv2 (Oquab
et al. 2023, arXiv:2304.07193, section 4); visible patches alone in MAE's encoder (He et al. 2021, arXiv:2111.06377,
section 3).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float


def check_mask(mask: Bool[Array | np.ndarray, "b n"], shape: tuple[int, int]) -> None:
    """Raises ValueError unless a mask has a bool for each patch of each image.

    Args:
        mask: True for a masked patch.
        shape: Images and patches.
    """
    if tuple(mask.shape) != shape or mask.dtype != jnp.bool_:
        found = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(f"mask: got {found}, expected bool of shape {shape}: images, patches; True for a masked one")


def replace_masked(
    x: Float[Array, "b n d"], mask: Bool[Array | np.ndarray, "b n"], token: Float[Array, "1 1 d"]
) -> Float[Array, "b n d"]:
    """Patches, of which the masked ones are the token."""
    return jnp.where(mask[:, :, None], token, x)


def leave_out(x: Float[Array, "b n d"], mask: Bool[Array | np.ndarray, "b p"]) -> Float[Array, "b m d"]:
    """Tokens without those of the masked patches, in their order; prefix tokens, which come first, stay.

    Args:
        x: All tokens; the patches are the last ones.
        mask: True for a masked patch; concrete, since the shape of the result depends on it.

    Raises:
        ValueError: The mask is traced, or has more masked patches in one image than in another, or nothing but these.
    """
    if isinstance(mask, Tracer):
        expected = "a concrete one, as of NumPy: how many patches are left is part of the shapes"
        raise ValueError(f"mask: got a traced array, expected {expected}")
    masked = np.sum(np.asarray(mask), axis=1)
    _check_counts(int(masked.min()), int(masked.max()), mask.shape[1])
    visible = np.argsort(np.asarray(mask), axis=1, kind="stable")[:, : mask.shape[1] - int(masked[0])]
    prefix, patches = x[:, : -mask.shape[1]], x[:, -mask.shape[1] :]
    patches = jnp.take_along_axis(patches, jnp.asarray(visible)[:, :, None], axis=1)
    return jnp.concatenate([prefix, patches], axis=1)


def _check_counts(least: int, most: int, patches: int) -> None:
    if least != most:
        expected = "equally many in each, for they are left out"
        raise ValueError(f"mask: got {least} masked patches in one image and {most} in another, expected {expected}")
    if most == patches:
        raise ValueError(f"mask: got all {patches} patches masked, expected fewer, for they are left out")
