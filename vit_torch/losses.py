"""Training losses. Twin: `vit_jax/losses.py`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "b classes"],
    labels: Int[Tensor, "b"] | Float[Tensor, "b classes"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "b"]:
    """Softmax cross entropy of each example, in float32 or better.

    Args:
        logits: The logits of the model.
        labels: Classes, or probabilities of classes.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567,
            section 7).
    """
    classes = logits.shape[-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), classes).to(logits.dtype)
    targets = labels * (1 - label_smoothing) + label_smoothing / classes
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(dim=-1)


def divergence(
    teacher: Float[Tensor, "b classes"], student: Float[Tensor, "b classes"], *, temperature: float
) -> Float[Tensor, "b"]:
    """temperature^2 * KL(p || q) of each example, in float32 or better (Hinton et al. 2015, arXiv:1503.02531).

    p and q are the softmax of the logits divided by the temperature.

    Args:
        teacher: Logits of p.
        student: Logits of q.
        temperature: Above 1, the lesser classes count more.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    p, q = (torch.log_softmax(logits.to(wide) / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * (torch.exp(p) * (p - q)).sum(dim=-1)
