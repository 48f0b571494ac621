"""The state of a run and the function that takes it one step further. Twin: `vit_jax/train_step.py`.

In several processes (`torch.distributed` is initialised) each computes its rows of the batch, and
`DistributedDataParallel` averages the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from parity.checkpoints import Checkpoint
from parity.configs import Config
from parity.recipes import Recipe, is_cast
from parity.recipes.initial import InitialTensors

from . import random
from .checkpoint import load
from .objectives import Objective, make_objective
from .objectives.objective import Loss
from .optim import average_share, learning_rate, make_optimizer, set_learning_rate
from .parallel import processes
from .state_dict import canonical_shapes, load_state_dict

Params = Mapping[str, Tensor]
Metrics = dict[str, Tensor]
TrainStep = Callable[["TrainState", Mapping[str, Tensor], random.Key], tuple["TrainState", Metrics]]
Differentiate = Callable[["TrainState", Mapping[str, Tensor], random.Key], Loss]


@dataclass(kw_only=True)
class TrainState:
    """What a step changes, in place.

    Attributes:
        step: The number of steps that were made.
        params: What is trained, the module's own parameters, by canonical name, float32 or float64.
        opt_state: PyTorch's optimiser.
        ema: The average of parameters and statistics, if the recipe asks for it.
        statistics: The running statistics of BatchNorm, the module's own, by canonical name; empty for a model without.
        carried: What the objective carries from step to step: dictionaries of arrays, by its own names.
    """

    step: int
    params: Params
    opt_state: torch.optim.Optimizer
    ema: Params | None = None
    statistics: Params = field(default_factory=dict)
    carried: Mapping[str, Params] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The functions of a run.

    Attributes:
        objective: What is learned.
        model: What is trained, whose parameters and statistics the state holds.
        start: Makes the first state from the first parameters and statistics, which it takes.
        run: What `step` calls.
        differentiate: What it calls for the loss; it leaves gradients in the parameters.
    """

    objective: Objective
    model: Any
    start: Callable[[Params, Params], TrainState]
    run: TrainStep
    differentiate: Differentiate

    def init(self, seed: int) -> TrainState:
        """The first state of values of a seed: the same in both frameworks and in any number of processes.

        Args:
            seed: The seed of the run.
        """
        config, initialization = self.objective.config, self.objective.recipe.initialization
        return self.load(InitialTensors(canonical_shapes(self.model), config, initialization, seed))

    def load(self, tensors: Mapping[str, np.ndarray], *, source: str = "the tensors") -> TrainState:
        """The first state of given values.

        Args:
            tensors: The parameters and statistics by canonical name, in the canonical layout.
            source: What to call the tensors in an error.

        Raises:
            CheckpointError: Tensors that don't fit, all in one report.
        """
        model: Any = self.objective.create(device="meta")
        load_state_dict(model, tensors, source=source)
        return self.start(dict(model.named_parameters()), dict(model.named_buffers()))

    def step(self, state: TrainState, batch: Mapping[str, Tensor], key: random.Key) -> tuple[TrainState, Metrics]:
        """The next state, which is the one that is given, changed, and the metrics of a step.

        Args:
            state: The state before the step.
            batch: This process's part of what `parity.data.train_batches` yields.
            key: The key of the run; the step's own follows from it and from the number of the step.
        """
        return self.run(state, batch, key)

    def gradients(
        self, state: TrainState, batch: Mapping[str, Tensor], key: random.Key
    ) -> tuple[Loss, dict[str, Tensor]]:
        """Loss and gradients of a batch, as the next step would have them before it clips them; the state is kept.

        Statistics of BatchNorm are put back.

        Args:
            state: The state before the step.
            batch: This process's part of what `parity.data.train_batches` yields.
            key: The key of the run.
        """
        before = {name: value.clone() for name, value in state.statistics.items()}
        loss = self.differentiate(state, batch, key)
        for name, value in before.items():
            state.statistics[name].copy_(value)
        return loss, {name: torch.clone(_grad(parameter)) for name, parameter in state.params.items()}


def make_trainer(
    recipe: Recipe,
    config: Config,
    device: torch.device | str | None = None,
    frozen: Mapping[str, Checkpoint] | None = None,
) -> Trainer:
    """Builds the functions of a run.

    Args:
        recipe: The recipe of the run.
        config: The config of the model.
        device: Where the parameters are.
        frozen: The checkpoints of the models that help and never change, by name; None where no step will be made.
    """
    # The type of everything that is kept, whatever the precision of the computation.
    dtype = torch.float64 if recipe.precision == "float64" else torch.float32
    helpers = {name: load(opened, device=device, dtype=dtype) for name, opened in (frozen or {}).items()}
    objective = make_objective(recipe, config, helpers)
    model = objective.create(device="meta")

    def start(params: Params, statistics: Params) -> TrainState:
        for name, value in {**params, **statistics}.items():
            owner, _, attribute = name.rpartition(".")
            tensor = value.detach().to(device=device, dtype=dtype)
            setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor) if name in params else tensor)
        params, statistics = dict(model.named_parameters()), dict(model.named_buffers())
        # A copy, for the step changes parameters in place.
        values = {**params, **statistics}
        return TrainState(
            step=0,
            params=params,
            opt_state=make_optimizer(recipe.optimizer, model, steps=recipe.steps),
            ema=None if recipe.ema_decay is None else {name: value.detach().clone() for name, value in values.items()},
            statistics=statistics,
            carried=objective.carried(params),
        )

    differentiate = make_gradients(model, objective)
    run = make_train_step(objective, differentiate)
    return Trainer(objective=objective, model=model, start=start, run=run, differentiate=differentiate)


def make_gradients(model: Any, objective: Objective) -> Differentiate:
    """The mean loss of a batch; its gradients are left in the parameters.

    Args:
        model: What is trained.
        objective: What is learned.
    """
    loss = _Loss(model, objective)
    parallel: list[_Loss | DistributedDataParallel] = []  # made in the first step, when there are parameters

    def gradients(state: TrainState, batch: Mapping[str, Tensor], key: random.Key) -> Loss:
        # A resumed run draws the same masks, because the step alone decides them.
        key = random.fold_in(key, state.step)
        if not parallel:
            # A mask token has no gradient where nothing is masked. Statistics are those of the whole batch anyway.
            unused = any(name.endswith("mask_token") for name in state.params)
            options: Any = {"find_unused_parameters": unused, "broadcast_buffers": False}
            parallel.append(DistributedDataParallel(loss, **options) if processes()[1] > 1 else loss)
        return _gradients(parallel[0], objective.recipe, state, objective.inputs(batch), key)

    return gradients


def make_train_step(objective: Objective, differentiate: Differentiate) -> TrainStep:
    """One step of gradient descent.

    Args:
        objective: What is learned.
        differentiate: What `make_gradients` returned.
    """
    recipe = objective.recipe

    def train_step(state: TrainState, batch: Mapping[str, Tensor], key: random.Key) -> tuple[TrainState, Metrics]:
        found = differentiate(state, batch, key)
        grad_norm = _clip(state.params, recipe.optimizer.clip_norm)
        rate = learning_rate(state.step, recipe.optimizer, steps=recipe.steps)
        set_learning_rate(state.opt_state, rate)
        state.opt_state.step()
        metrics = {
            "loss": found.value,
            **found.metrics,
            "grad_norm": grad_norm,
            "learning_rate": torch.tensor(rate, dtype=torch.float64),
        }
        if state.ema is not None:
            average(state.ema, {**state.params, **state.statistics}, average_share(state.step, recipe))
        with torch.no_grad():
            state.carried = objective.after_step(state.carried, state.params, found.seen, state.step)
        state.step += 1
        return state, metrics

    return train_step


def mixed(params: Params, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters as a computation in a precision takes them: `parity.recipes.is_cast` says which are cast."""
    return {name: value.to(dtype) if is_cast(name, value.shape) else value for name, value in params.items()}


class _Loss(nn.Module):
    """The objective's loss as a module, which `DistributedDataParallel` can wrap."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model = model
        self._dtype = getattr(torch, objective.recipe.precision)
        self._bound = _Bound(model, objective)
        # In a dictionary they are no submodules: nothing of them is trained, and what is cast is cast once.
        self._frozen = objective.frozen
        for helper in self._frozen.values():
            for name, parameter in helper.named_parameters():
                parameter.data = mixed({name: parameter.data}, self._dtype)[name]

    def forward(self, carried: Mapping[str, Params], inputs: Mapping[str, Tensor], key: random.Key) -> Loss:
        # The cast is part of the differentiated function: gradients come back in the parameters' own precision.
        cast = mixed(dict(self.model.named_parameters()), self._dtype)
        cast = {f"model.{name}": value for name, value in cast.items()}
        return functional_call(self._bound, cast, (self._frozen, carried, inputs, key))


class _Bound(nn.Module):
    """The loss of a model whose parameters are replaced while it runs, whichever of its methods an objective calls."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, frozen: Any, carried: Any, inputs: Any, key: random.Key) -> Loss:
        return self._objective.loss(self.model, frozen, carried, inputs, key)


def _gradients(
    loss: _Loss | DistributedDataParallel,
    recipe: Recipe,
    state: TrainState,
    inputs: Mapping[str, Tensor],
    key: random.Key,
) -> Loss:
    """The mean loss of a batch, computed in `recipe.accumulate` parts; leaves gradients in the parameters."""
    parts = recipe.accumulate
    keys = [key] if parts == 1 else [random.fold_in(key, part) for part in range(parts)]
    for parameter in state.params.values():
        # What the loss doesn't depend on has gradient zero, as in JAX: moments and decay go on.
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    found = []
    for part, part_key in enumerate(keys):
        # Part i is rows i, i + parts, ..., of each process, which then has its part of the masks.
        rows = {name: x[part::parts] for name, x in inputs.items()}
        is_last = part == parts - 1
        own = _own_rows(part_key, len(next(iter(rows.values()))))
        with nullcontext() if is_last or isinstance(loss, _Loss) else loss.no_sync(), _drawing(recipe, own) as source:
            one = loss(state.carried, rows, source)
            (one.value / parts).backward()
        found.append(one)
    return _mean(found)


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # `_gradients` leaves one in every parameter
    return parameter.grad


def _mean(parts: list[Loss]) -> Loss:
    """The mean over the parts of a batch and over processes, of the loss and of what comes with it."""

    def mean(values: list[Tensor]) -> Tensor:
        total = sum(value.detach().double() / len(parts) for value in values)
        assert isinstance(total, Tensor)  # there is at least one part
        if (world := processes()[1]) > 1:
            torch.distributed.all_reduce(total)
            total = total / world
        return total

    metrics = {name: mean([part.metrics[name] for part in parts]) for name in parts[0].metrics}
    seen = {name: mean([part.seen[name] for part in parts]).to(value) for name, value in parts[0].seen.items()}
    return Loss(mean([part.value for part in parts]), metrics, seen)


def _own_rows(key: random.Key, rows: int) -> random.Key:
    """The key of this process's rows of the whole batch's masks."""
    return random.Threefry(key.words, processes()[0] * rows) if isinstance(key, random.Threefry) else key


@contextmanager
def _drawing(recipe: Recipe, key: random.Key) -> Iterator[random.Key]:
    """The key itself, or PyTorch's own generators, seeded by it and put back thereafter."""
    if recipe.generator == "threefry" or isinstance(key, random.Global):
        yield key
        return
    with torch.random.fork_rng():
        own = random.fold_in(key, key.first_row)
        assert isinstance(own, random.Threefry)  # as the key is
        torch.manual_seed(int(own.words[0]) << 32 | int(own.words[1]))
        yield random.GLOBAL


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


@torch.no_grad()
def average(ema: Params, values: Params, share: float) -> Params:
    """Moves the average towards the values by a share of the way, statistics too, as in timm's `ModelEmaV3`.

    As decay * ema + (1 - decay) * values, the rounded factors would add up to less than 1: at 0.99999 float32 loses
    0.1 % of every weight.
    """
    for name, kept in ema.items():
        kept.add_(values[name] - kept, alpha=share)
    return ema
