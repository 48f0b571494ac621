"""Optimiser, schedule and masks as a recipe says; moments by canonical name. Twin: `vit_jax/optim.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from parity import recipes
from parity.checkpoints.shapes import is_statistic
from parity.recipes import Optimizer, decays, learning_rate_scale
from parity.runs.read_training import TORCH_MOMENTS as MOMENTS

from .state_dict import canonical_shapes


def make_optimizer(optimizer: Optimizer, model: Any, *, steps: int) -> torch.optim.Optimizer:
    """AdamW or SGD; the step clips, and sets each group's learning rate to `learning_rate` times its `scale`.

    Args:
        optimizer: The recipe's optimiser, with every number.
        model: Gives parameters and their names.
        steps: The steps of the whole run.
    """
    decay, scales = decay_mask(model), learning_rate_scales(model, optimizer.layer_decay)
    groups: dict[tuple[float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((scales[name], decay[name]), []).append((name, parameter))
    params = [
        {"params": named, "scale": scale, "weight_decay": optimizer.weight_decay if decayed else 0.0}
        for (scale, decayed), named in groups.items()
    ]
    rate = learning_rate(0, optimizer, steps=steps)
    if optimizer.name == "adamw":
        return torch.optim.AdamW(params, lr=rate, betas=(optimizer.b1, optimizer.b2), eps=optimizer.eps)
    return torch.optim.SGD(params, lr=rate, momentum=optimizer.momentum)


def decay_mask(model: Any) -> dict[str, bool]:
    """Whether each parameter decays, by canonical name."""
    return {name: decays(name, shape) for name, shape in _trained(model).items()}


def learning_rate_scales(model: Any, layer_decay: float) -> dict[str, float]:
    """Factor of each parameter's learning rate, by canonical name."""
    return {name: learning_rate_scale(name, model.config, layer_decay) for name in _trained(model)}


def learning_rate(count: int, optimizer: Optimizer, *, steps: int) -> float:
    """`parity.recipes.learning_rate`."""
    return recipes.learning_rate(count, optimizer, steps)


def average_share(count: int, recipe: Recipe) -> float:
    """`parity.recipes.average_share`."""
    return recipes.average_share(count, recipe)


def moments_of(opt_state: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What the optimiser remembers, by optax's name (`mu` and `nu` of AdamW, `trace` of SGD) and canonical name.

    Before the first step it remembers nothing in PyTorch, which is zeros in optax.
    """
    found = {}
    for moment, theirs in MOMENTS[_kind(opt_state)].items():
        states = ((name, parameter, opt_state.state.get(parameter, {})) for name, parameter in _named(opt_state))
        found[moment] = {
            name: torch.zeros_like(parameter.detach()) if state.get(theirs) is None else state[theirs]
            for name, parameter, state in states
        }
    return found


def with_moments(
    opt_state: torch.optim.Optimizer, step: int, moments: Mapping[str, Mapping[str, Tensor]]
) -> torch.optim.Optimizer:
    """The same optimiser, changed, with other moments and with every counter at `step`."""
    for name, parameter in _named(opt_state):
        state = {
            theirs: moments[moment][name].to(parameter).clone() for moment, theirs in MOMENTS[_kind(opt_state)].items()
        }
        counter = {"step": torch.tensor(float(step))} if _kind(opt_state) == "adamw" else {}
        opt_state.state[parameter] = counter | state
    return opt_state


def set_learning_rate(opt_state: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its part of the rate."""
    for group in opt_state.param_groups:
        group["lr"] = rate * group["scale"]


def _trained(model: Any) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of each parameter; statistics aren't optimised."""
    return {name: shape for name, shape in canonical_shapes(model).items() if not is_statistic(name)}


def _kind(opt_state: torch.optim.Optimizer) -> str:
    return "adamw" if isinstance(opt_state, torch.optim.AdamW) else "sgd"


def _named(opt_state: torch.optim.Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    for group in opt_state.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
