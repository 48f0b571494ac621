"""AdamW, its schedule and its decay mask, as a recipe says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from parity.recipes import Optimizer, decays

from .models import Model
from .state import canonical_shapes


def make_optimizer(optimizer: Optimizer, *, steps: int, model: Model) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with decoupled decay, for the parameters that `functional` gives.

    Args:
        optimizer: Every number.
        steps: Of the whole run.
        model: Gives names and shapes; may be abstract.
    """
    clip = [] if optimizer.clip_norm is None else [optax.clip_by_global_norm(optimizer.clip_norm)]
    adamw = optax.adamw(
        learning_rate_schedule(optimizer, steps=steps),
        b1=optimizer.b1,
        b2=optimizer.b2,
        eps=optimizer.eps,
        eps_root=0.0,
        weight_decay=optimizer.weight_decay,
        mask=decay_mask(model),
        nesterov=False,
    )
    return optax.chain(*clip, adamw)


def decay_mask(model: Model) -> dict[str, bool]:
    """Whether each parameter decays, by canonical name."""
    return {name: decays(name, shape) for name, shape in canonical_shapes(model).items()}


def learning_rate_schedule(optimizer: Optimizer, *, steps: int) -> optax.Schedule:
    """`parity.recipes.learning_rate`, traceable.

    optax's own schedule stays in float32 when everything else is float64, and float64 is what shows a wrong line.
    """
    peak, low, warmup = optimizer.learning_rate, optimizer.min_learning_rate, optimizer.warmup_steps

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, float)
        progress = jnp.clip((step - warmup) / max(1, steps - warmup), 0, 1)
        cosine = low + (peak - low) * (1 + jnp.cos(jnp.pi * progress)) / 2
        return jnp.where(step < warmup, peak * step / max(1, warmup), cosine)

    return schedule
