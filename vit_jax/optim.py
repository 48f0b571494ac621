"""Optimiser, schedule and masks as a recipe says; moments by canonical name. Twin: `vit_torch/optim.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from parity.checkpoints.shapes import is_statistic
from parity.recipes import AVERAGE_POWER, MOMENTS, Optimizer, Recipe, decays, learning_rate_scale

from .functional import Params
from .stacks import members
from .state_dict import canonical_shapes


def make_optimizer(
    optimizer: Optimizer, model: Any, *, steps: int, names: Iterable[str] | None = None
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or SGD, for the parameters that `functional` gives.

    Args:
        optimizer: The recipe's optimiser, with every number.
        model: Gives names and shapes; may be abstract.
        steps: The steps of the whole run.
        names: The names of the parameters, where some are stacks; None for canonical names.
    """
    clip = [] if optimizer.clip_norm is None else [optax.clip_by_global_norm(optimizer.clip_norm)]
    decay = optax.add_decayed_weights(optimizer.weight_decay, mask=decay_mask(model, names))
    rule = (
        [_scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps), decay]
        if optimizer.name == "adamw"
        else [decay, optax.trace(decay=optimizer.momentum)]
    )
    scales = learning_rate_scales(model, optimizer.layer_decay, names)
    layers = [] if optimizer.layer_decay == 1 else [optax.stateless(lambda updates, _: _times(updates, scales))]
    return optax.chain(*clip, *rule, *layers, optax.scale_by_learning_rate(_schedule(optimizer, steps=steps)))


def decay_mask(model: Any, names: Iterable[str] | None = None) -> dict[str, bool]:
    """Whether each parameter decays, by its name."""
    shapes = _trained(model)
    return {name: decays(members(name)[0], shapes[members(name)[0]]) for name in names or shapes}


def learning_rate_scales(
    model: Any, layer_decay: float, names: Iterable[str] | None = None
) -> dict[str, float | list[float]]:
    """Factor of each parameter's learning rate, by its name; of a stack, one for each layer."""

    def scales(name: str) -> float | list[float]:
        each = [learning_rate_scale(member, model.config, layer_decay) for member in members(name)]
        return each[0] if len(each) == 1 else each

    return {name: scales(name) for name in names or _trained(model)}


def learning_rate(count: jax.typing.ArrayLike, optimizer: Optimizer, *, steps: int) -> jax.Array:
    """`parity.recipes.learning_rate`, traceable.

    optax's own schedule stays in float32 when everything else is float64, and float64 is what shows a wrong line.
    """
    peak, low, warmup = optimizer.learning_rate, optimizer.min_learning_rate, optimizer.warmup_steps
    step = jnp.asarray(count, float)
    left = jnp.clip((steps - step) / max(1, steps - warmup), 0, 1)
    cosine = low + (peak - low) * jnp.sin(jnp.pi / 2 * left) ** 2
    return jnp.where(step < warmup, peak * step / max(1, warmup), cosine)


def average_share(count: jax.typing.ArrayLike, recipe: Recipe) -> jax.Array:
    """`parity.recipes.average_share`, traceable."""
    least = jnp.asarray(1 - (recipe.ema_decay or 0), float)
    return (
        jnp.maximum(least, (1 + jnp.asarray(count, float)) ** AVERAGE_POWER) if recipe.ema_warmup == "timm" else least
    )


def moments_of(opt_state: Any) -> dict[str, Params]:
    """What the optimiser remembers, by optax's name (`mu` and `nu` of AdamW, `trace` of SGD) and canonical name."""
    found = {name: optax.tree.get(opt_state, name, None) for names in MOMENTS.values() for name in names}
    return {name: moment for name, moment in found.items() if moment is not None}


def with_moments(opt_state: Any, step: int, moments: dict[str, Params]) -> Any:
    """The same state with other moments and with every counter at `step`."""
    counted = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, step) if _is_counter(path) else leaf, opt_state
    )
    return optax.tree.set(counted, **moments)


def _trained(model: Any) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of each parameter; statistics aren't optimised."""
    return {name: shape for name, shape in canonical_shapes(model).items() if not is_statistic(name)}


def _is_counter(path: tuple[Any, ...]) -> bool:
    return getattr(path[-1], "name", None) == "count"


def _schedule(optimizer: Optimizer, *, steps: int) -> optax.Schedule:
    return lambda count: learning_rate(count, optimizer, steps=steps)


def _times(updates: Any, scales: Mapping[str, float | list[float]]) -> dict[str, jax.Array]:
    def times(update: jax.Array, scale: float | list[float]) -> jax.Array:
        # Those of a stack lie along its first axis.
        each = jnp.asarray(scale, update.dtype)
        return update * each.reshape(each.shape + (1,) * (update.ndim - each.ndim))

    return {name: times(update, scales[name]) for name, update in updates.items()}


def _scale_by_adam(*, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with the same state, in forms that keep their digits in float32.

    optax takes 1 - b ** count in float32: of 0.001, the value after the first step, four digits are left. And it takes
    the mean as b1 * mean + (1 - b1) * gradient, whose rounded factors add up to 1 - 2e-8 for 0.9: each step would be
    2e-7 too short, always in the same direction.
    """
    reference = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        mu = jax.tree.map(lambda mean, grad: mean + (1 - b1) * (grad - mean), state.mu, updates)
        new: Any = reference.update(updates, state, params)[1]
        state = new._replace(mu=mu)
        count = jnp.asarray(state.count, float)
        first, second = (-jnp.expm1(count * math.log(b)) if b else 1.0 for b in (b1, b2))

        def direction(mu: jax.Array, nu: jax.Array) -> jax.Array:
            return (mu / first) / (jnp.sqrt(nu / second) + eps)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(reference.init, update)
