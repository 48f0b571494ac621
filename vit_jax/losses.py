"""Training losses. Twin: `vit_torch/losses.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b classes"],
    labels: Int[Array, "b"] | Float[Array, "b classes"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "b"]:
    """Softmax cross entropy of each example, in float32 or better.

    Args:
        logits: The logits of the model.
        labels: Classes, or probabilities of classes.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567,
            section 7).
    """
    classes = logits.shape[-1]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    targets = labels * (1 - label_smoothing) + label_smoothing / classes
    return -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


def divergence(
    teacher: Float[Array, "b classes"], student: Float[Array, "b classes"], *, temperature: float
) -> Float[Array, "b"]:
    """temperature^2 * KL(p || q) of each example, in float32 or better (Hinton et al. 2015, arXiv:1503.02531).

    p and q are the softmax of the logits divided by the temperature.

    Args:
        teacher: Logits of p.
        student: Logits of q.
        temperature: Above 1, the lesser classes count more.
    """
    wide = jnp.promote_types(student.dtype, jnp.float32)
    p, q = (jax.nn.log_softmax(logits.astype(wide) / temperature, axis=-1) for logits in (teacher, student))
    return temperature**2 * (jnp.exp(p) * (p - q)).sum(axis=-1)
