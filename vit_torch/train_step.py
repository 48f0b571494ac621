"""The state of a run and the function that takes it one step further. Twin: `vit_jax/train_step.py`.

In several processes (`torch.distributed` is initialised) each computes its rows of the batch, and
`DistributedDataParallel` averages the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from parity.configs import Config
from parity.recipes import Recipe

from . import random
from .losses import cross_entropy
from .mix import mix_images, mix_targets
from .models import Model, create_model
from .normalize import normalize
from .optim import learning_rate, make_optimizer, set_learning_rate
from .parallel import processes

Params = Mapping[str, Tensor]
Metrics = dict[str, Tensor]
TrainStep = Callable[["TrainState", Mapping[str, Tensor], random.Key], tuple["TrainState", Metrics]]


@dataclass(kw_only=True)
class TrainState:
    """What a step changes, in place.

    Attributes:
        step: Steps that were made.
        params: The model's own, by canonical name, float32 or float64.
        opt_state: PyTorch's optimiser.
        ema: The average of the parameters, if the recipe asks for it.
    """

    step: int
    params: Params
    opt_state: torch.optim.Optimizer
    ema: Params | None = None


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The functions of a run.

    Attributes:
        model: Whose parameters the state holds.
        init: From a key to the first state.
        start: From the first parameters, which it takes, to the first state.
        step: From state, batch and key to the state, changed, and metrics. The batch holds this process's uint8 images
            (b, h, w, c) and labels, and what `parity.data.mix_draws` adds; the key is that of the run.
    """

    model: Model
    init: Callable[[random.Key], TrainState]
    start: Callable[[Params], TrainState]
    step: Any


def make_trainer(recipe: Recipe, config: Config, device: torch.device | str | None = None) -> Trainer:
    """Builds the functions of a run.

    Args:
        recipe: Of the run.
        config: The model's.
        device: Of the parameters.
    """
    model = create_model(config, device="meta", execution=recipe.execution)
    dtype = torch.float64 if recipe.precision == "float64" else torch.float32

    def init(key: random.Key) -> TrainState:
        with torch.random.fork_rng(devices=[]):
            if isinstance(key, random.Threefry):
                torch.manual_seed(int(key.words[1]))
            return start(dict(create_model(config).named_parameters()))

    def start(params: Params) -> TrainState:
        for name, value in params.items():
            owner, _, attribute = name.rpartition(".")
            parameter = nn.Parameter(value.detach().to(device=device, dtype=dtype))
            setattr(model.get_submodule(owner), attribute, parameter)
        params = dict(model.named_parameters())
        # A copy, for the step changes parameters in place.
        ema = None if recipe.ema_decay is None else {name: value.detach().clone() for name, value in params.items()}
        opt_state = make_optimizer(recipe.optimizer, model, steps=recipe.steps)
        return TrainState(step=0, params=params, opt_state=opt_state, ema=ema)

    return Trainer(model=model, init=init, start=start, step=make_train_step(model, recipe))


def make_train_step(model: Model, recipe: Recipe) -> TrainStep:
    """One step of gradient descent."""
    loss = _Loss(model, recipe)
    parallel: list[_Loss | DistributedDataParallel] = []  # made in the first step, when there are parameters

    def train_step(state: TrainState, batch: Mapping[str, Tensor], key: random.Key) -> tuple[TrainState, Metrics]:
        # A resumed run draws the same masks, because the step alone decides them.
        key = random.fold_in(key, state.step)
        if not parallel:
            # A mask token has no gradient where nothing is masked.
            unused = model.config.mask_token
            many = processes()[1] > 1
            parallel.append(DistributedDataParallel(loss, find_unused_parameters=unused) if many else loss)
        value, accuracy = _gradients(parallel[0], recipe, state.params, _inputs(model, recipe, batch), key)
        grad_norm = _clip(state.params, recipe.optimizer.clip_norm)
        rate = learning_rate(state.step, recipe.optimizer, steps=recipe.steps)
        set_learning_rate(state.opt_state, rate)
        state.opt_state.step()
        metrics = {
            "loss": value,
            "accuracy": accuracy,
            "grad_norm": grad_norm,
            "learning_rate": torch.tensor(rate, dtype=torch.float64),
        }
        if state.ema is not None:
            _average(state.ema, state.params, recipe.ema_decay)
        state.step += 1
        return state, metrics

    return train_step


class _Loss(nn.Module):
    """Mean loss and accuracy of some rows."""

    def __init__(self, model: Model, recipe: Recipe):
        super().__init__()
        self.model = model
        self._dtype = getattr(torch, recipe.precision)
        self._label_smoothing = recipe.label_smoothing

    def forward(self, inputs: tuple[Tensor, ...], key: random.Key) -> tuple[Tensor, Tensor]:
        # The cast is part of the differentiated function: gradients come back in the parameters' own precision.
        cast = {name: value.to(self._dtype) for name, value in self.model.named_parameters()}
        images, targets, labels = inputs
        logits = functional_call(self.model, cast, (images,), {"key": key})
        loss = cross_entropy(logits, targets, label_smoothing=self._label_smoothing)
        return loss.mean(), (logits.argmax(dim=-1) == labels).double().mean()


def _inputs(model: Model, recipe: Recipe, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, targets and labels."""
    images = normalize(batch["image"], model.config.preprocessing, getattr(torch, recipe.precision))
    if not recipe.data.augmentation.mixes:
        return images, batch["label"], batch["label"]
    lam = batch["lam"]
    targets = mix_targets(batch["label"], lam, num_classes=model.config.num_classes, dtype=images.dtype)
    return mix_images(images, lam, batch["box"]), targets, batch["label"]


def _gradients(
    loss: _Loss | DistributedDataParallel, recipe: Recipe, params: Params, inputs: tuple[Tensor, ...], key: random.Key
) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy of a batch, computed in `recipe.accumulate` parts; leaves gradients in the parameters."""
    parts = recipe.accumulate
    keys = [key] if parts == 1 else [random.fold_in(key, part) for part in range(parts)]
    totals = torch.zeros(2, dtype=torch.float64, device=inputs[0].device)
    for parameter in params.values():
        # What the loss doesn't depend on has gradient zero, as in JAX: moments and decay go on.
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    for part, part_key in enumerate(keys):
        # Part i is rows i, i + parts, ..., of each process, which then has its part of the masks.
        rows = tuple(x[part::parts] for x in inputs)
        is_last = part == parts - 1
        with nullcontext() if is_last or isinstance(loss, _Loss) else loss.no_sync():
            value, accuracy = loss(rows, _own_rows(part_key, len(rows[0])))
            (value / parts).backward()
        totals += torch.stack([value.detach().double(), accuracy.double()]) / parts
    if (world := processes()[1]) > 1:
        torch.distributed.all_reduce(totals)
        totals /= world
    return totals[0], totals[1]


def _own_rows(key: random.Key, rows: int) -> random.Key:
    """The key of this process's rows of the whole batch's masks."""
    return random.Threefry(key.words, processes()[0] * rows) if isinstance(key, random.Threefry) else key


def _clip(params: Params, greatest: float | None) -> Tensor:
    """The norm of all gradients, which are scaled down to `greatest` in place.

    `torch.nn.utils.clip_grad_norm_` adds 1e-6 to the norm, which makes every clipped gradient smaller than optax's.
    """
    grads = [parameter.grad for parameter in params.values() if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads]))
    if greatest is not None:
        scale = torch.where(norm < greatest, 1.0, greatest / norm)
        for grad in grads:
            grad.mul_(scale)
    return norm


def _average(ema: Params, params: Params, decay: float | None) -> None:
    """Ema = decay * ema + (1 - decay) * params."""
    assert decay is not None  # there is an average for such recipes alone
    with torch.no_grad():
        for name, average in ema.items():
            average.mul_(decay).add_(params[name], alpha=1 - decay)
