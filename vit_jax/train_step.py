"""The state of a run and the pure, jitted function that takes it one step further. Twin: `vit_torch/train_step.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from parity.checkpoints import Checkpoint
from parity.configs import Config
from parity.recipes import Recipe, is_cast
from parity.recipes.initial import InitialTensors

from . import random
from .checkpoint import load
from .functional import Params, bind, params_of, statistics_of
from .objectives import Objective, make_objective
from .objectives.objective import Loss
from .optim import average_share, learning_rate, make_optimizer
from .sharding import batch_sharding, parameter_shardings, replicated
from .stacks import layer_shape, members, stack_names, stacked, unstacked
from .state_dict import canonical_shapes, load_state_dict

Metrics = dict[str, jax.Array]
Differentiate = Callable[..., tuple[tuple[Loss, Params], Params]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a step changes.

    Where blocks are scanned, those that are alike have one array for each of their tensors (`vit_jax/stacks.py`);
    `stacks.unstacked_state` gives each by its own name.

    Attributes:
        step: The number of steps that were made, int32.
        params: What is trained, by canonical name, float32 or float64.
        opt_state: The state of optax's optimiser.
        ema: The average of parameters and statistics, if the recipe asks for it.
        statistics: The running statistics of BatchNorm, by canonical name; empty for a model without.
        carried: What the objective carries from step to step: dictionaries of arrays, by its own names.
    """

    step: Any
    params: Params
    opt_state: Any
    ema: Params | None = None
    statistics: Params = field(default_factory=dict)
    carried: dict[str, Params] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The compiled-on-demand functions of a run; all of them run under `jax.set_mesh(mesh)`.

    Attributes:
        objective: What is learned.
        model: What is trained, without memory: the structure that parameters are bound to.
        mesh: The mesh over which state and batches are split.
        shardings: How each leaf of the state is split.
        start: Makes the first state from the first parameters and statistics, which are where they belong.
        frozen: Parameters and statistics of each frozen model, by its name.
        jitted: The step as a function of `frozen`, state, batch and key.
        differentiated: Loss, new statistics and gradients as a function of the same.
    """

    objective: Objective
    model: Any
    mesh: Mesh
    shardings: TrainState
    start: Callable[[Params, Params], TrainState]
    frozen: Mapping[str, Params]
    jitted: Any
    differentiated: Any

    def init(self, seed: int) -> TrainState:
        """The first state of values of a seed: the same in both frameworks and on any mesh.

        Args:
            seed: The seed of the run.
        """
        config, initialization = self.objective.config, self.objective.recipe.initialization
        return self.load(InitialTensors(canonical_shapes(self.model), config, initialization, seed))

    def load(self, tensors: Mapping[str, np.ndarray], *, source: str = "the tensors") -> TrainState:
        """The first state of given values, of which each device's part alone is read.

        Args:
            tensors: The parameters and statistics by canonical name, in the canonical layout.
            source: What to call the tensors in an error.

        Raises:
            CheckpointError: Tensors that don't fit, all in one report.
        """
        abstract = self.abstract_state()
        leaves = unstacked(abstract.params | abstract.statistics)

        def place(name: str, shape: tuple[int, ...], read: Callable[..., np.ndarray]) -> jax.Array:
            leaf = leaves[name]
            return jax.make_array_from_callback(
                shape, leaf.sharding, lambda index: read(index or ()).astype(leaf.dtype)
            )

        model = nnx.clone(self.model)
        load_state_dict(model, tensors, source=source, place=place)
        return self.start(
            stacked(params_of(model), abstract.params), stacked(statistics_of(model), abstract.statistics)
        )

    def step(self, state: TrainState, batch: Mapping[str, jax.Array], key: random.Key) -> tuple[TrainState, Metrics]:
        """The next state and the metrics of a step; the state that is given is donated.

        Args:
            state: The state before the step.
            batch: A batch of `parity.data.train_batches`, split over the mesh.
            key: The key of the run; the step's own follows from it and from the number of the step.
        """
        return self.jitted(self.frozen, state, batch, key)

    def gradients(self, state: TrainState, batch: Mapping[str, jax.Array], key: random.Key) -> tuple[Loss, Params]:
        """Loss and gradients of a batch, as the next step would have them before it clips them; the state is kept.

        Args:
            state: The state before the step.
            batch: A batch of `parity.data.train_batches`, split over the mesh.
            key: The key of the run.
        """
        (loss, _), grads = self.differentiated(self.frozen, state, batch, key)
        return loss, grads

    def lower(self, state: Any, batch: Any, key: Any) -> jax.stages.Lowered:
        """The step, traced for shapes, types and shardings."""
        return self.jitted.lower(self.frozen, state, batch, key)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state, without memory."""
        shapes = jax.eval_shape(self.start, *_abstract(self.model, self.objective.recipe))
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.shardings,
        )


def make_trainer(recipe: Recipe, config: Config, mesh: Mesh, frozen: Mapping[str, Checkpoint] | None = None) -> Trainer:
    """Builds the functions of a run.

    Args:
        recipe: The recipe of the run.
        config: The config of the model.
        mesh: What `make_mesh` returned; its devices may be those of a topology that isn't there, to compile for.
        frozen: The checkpoints of the models that help and never change, by name; None where no step will be made.
    """
    helpers = {name: load(opened, mesh=mesh, dtype=_stored(recipe)) for name, opened in (frozen or {}).items()}
    objective = make_objective(recipe, config, helpers)
    model = nnx.eval_shape(lambda: objective.create(rngs=nnx.Rngs(params=0)))
    first = _abstract(model, recipe)
    optimizer = make_optimizer(recipe.optimizer, model, steps=recipe.steps, names=first[0])

    def start(params: Params, statistics: Params) -> TrainState:
        # A copy, for one buffer can't be donated twice.
        ema = None if recipe.ema_decay is None else jax.tree.map(jnp.copy, params | statistics)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            ema=ema,
            statistics=statistics,
            carried=jax.tree.map(jnp.copy, objective.carried(params)),
        )

    tensors = stacked(parameter_shardings(model, mesh), first[0] | first[1])
    shardings = _state_shardings(jax.eval_shape(start, *first), tensors, mesh)
    arrays = {name: params_of(model) | statistics_of(model) for name, model in objective.frozen.items()}
    given = (
        {name: parameter_shardings(model, mesh) for name, model in objective.frozen.items()},
        shardings,
        batch_sharding(mesh),
        replicated(mesh),
    )
    whole, differentiate = replicated(mesh), make_gradients(model, objective)
    train_step = make_train_step(objective, differentiate, optimizer)
    jitted = jax.jit(train_step, in_shardings=given, out_shardings=(shardings, whole), donate_argnums=1)
    outputs = ((whole, shardings.statistics), shardings.params)
    differentiated = jax.jit(differentiate, in_shardings=given, out_shardings=outputs)
    return Trainer(
        objective=objective,
        model=model,
        mesh=mesh,
        shardings=shardings,
        start=jax.jit(start, out_shardings=shardings),
        frozen=arrays,
        jitted=jitted,
        differentiated=differentiated,
    )


def make_gradients(model: Any, objective: Objective) -> Differentiate:
    """Mean loss, new statistics and gradients as a pure function of frozen parameters, state, batch and the run's key.

    Args:
        model: What is trained, without memory.
        objective: What is learned.
    """

    def gradients(
        frozen: Mapping[str, Params], state: TrainState, batch: Mapping[str, jax.Array], key: random.Key
    ) -> tuple[tuple[Loss, Params], Params]:
        # A resumed run draws the same masks, because the step alone decides them.
        key = random.fold_in(key, state.step)
        return _gradients(model, objective, frozen, state, objective.inputs(batch), key)

    return gradients


def make_train_step(
    objective: Objective, differentiate: Differentiate, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[TrainState, Metrics]]:
    """One step of gradient descent as a pure function of frozen parameters, state, batch and the run's key.

    Args:
        objective: What is learned.
        differentiate: What `make_gradients` returned.
        optimizer: What `make_optimizer` returned.
    """
    recipe = objective.recipe

    def train_step(
        frozen: Mapping[str, Params], state: TrainState, batch: Mapping[str, jax.Array], key: random.Key
    ) -> tuple[TrainState, Metrics]:
        (loss, statistics), grads = differentiate(frozen, state, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)  # optax's type is any tree
        metrics = {
            "loss": loss.value,
            **loss.metrics,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": learning_rate(state.step, recipe.optimizer, steps=recipe.steps),
        }
        new = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=None
            if state.ema is None
            else average(state.ema, params | statistics, average_share(state.step, recipe)),
            statistics=statistics,
            carried=objective.after_step(state.carried, params, loss.seen, state.step),
        )
        return new, metrics

    return train_step


def mixed(params: Mapping[str, jax.Array], dtype: jax.typing.DTypeLike) -> Params:
    """Parameters as a computation in a precision takes them: `parity.recipes.is_cast` says which are cast."""
    return {
        name: value.astype(dtype) if is_cast(members(name)[0], layer_shape(name, value.shape)) else value
        for name, value in params.items()
    }


def _gradients(
    model: Any,
    objective: Objective,
    frozen: Mapping[str, Params],
    state: TrainState,
    inputs: dict[str, jax.Array],
    key: random.Key,
) -> tuple[tuple[Loss, Params], Params]:
    """Mean loss, new statistics and gradients of a batch, computed in `recipe.accumulate` parts, one after another."""
    precision = objective.recipe.precision
    helpers = {
        name: bind(helper, mixed(frozen[name], precision), frozen[name]) for name, helper in objective.frozen.items()
    }

    def compute(params: Params, statistics: Params, inputs: Any, key: random.Key) -> Any:
        # The cast is part of the differentiated function: gradients come back in the parameters' own precision.
        bound = bind(model, mixed(params, precision), statistics)
        loss = objective.loss(bound, helpers, state.carried, inputs, key)
        return loss.value, (loss, stacked(statistics_of(bound), statistics))

    differentiated = jax.grad(compute, has_aux=True)
    parts = objective.recipe.accumulate
    if parts == 1:
        grads, (loss, statistics) = differentiated(state.params, state.statistics, inputs, key)
        return (loss, statistics), grads
    # Part i is rows i, i + parts, ...: each device takes its own rows, and nothing is sent.
    split = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), inputs)
    keys = jnp.stack([random.fold_in(key, part) for part in range(parts)])

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        total, statistics = carry
        grads, (loss, statistics) = differentiated(state.params, statistics, *part)
        return (jax.tree.map(jnp.add, total, (loss, grads)), statistics), None

    grads, (loss, _) = jax.eval_shape(differentiated, state.params, state.statistics, inputs, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, grads))
    (total, statistics), _ = jax.lax.scan(add, (zeros, state.statistics), (split, keys))
    loss, grads = jax.tree.map(lambda x: x / parts, total)
    return (loss, statistics), grads


def average(ema: Params, values: Params, share: jax.Array) -> Params:
    """The average moved towards the values by a share of the way, statistics too, as in timm's `ModelEmaV3`.

    As decay * ema + (1 - decay) * values, the rounded factors would add up to less than 1: at 0.99999 float32 loses
    0.1 % of every weight.
    """
    return {name: ema[name] + share.astype(ema[name].dtype) * (values[name] - ema[name]) for name in ema}


def _stored(recipe: Recipe) -> Any:
    """The type of everything that is kept, whatever the precision of the computation."""
    return jnp.float64 if recipe.precision == "float64" else jnp.float32


def _abstract(model: Any, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and statistics without memory, in the type in which they are kept, and stacked where they are scanned.

    Args:
        model: What is trained, without memory.
        recipe: The recipe of the run.
    """
    params, statistics = (
        {name: jax.ShapeDtypeStruct(value.shape, _stored(recipe)) for name, value in tensors.items()}
        for tensors in (params_of(model), statistics_of(model))
    )
    if not recipe.execution.scan:
        return params, statistics
    return stacked(params, stack_names(params)), stacked(statistics, stack_names(statistics))


def _state_shardings(state: TrainState, tensors: Mapping[str, jax.sharding.NamedSharding], mesh: Mesh) -> TrainState:
    """Splits dictionaries of the model's tensors as the model's are, wherever the state has one; the rest is whole.

    Those are parameters, moments and average, and what an objective carries under the same names.
    """

    def is_of_tensors(node: Any) -> bool:
        return isinstance(node, dict) and bool(node) and node.keys() <= tensors.keys()

    def split(node: Any) -> Any:
        return {name: tensors[name] for name in node} if is_of_tensors(node) else replicated(mesh)

    return jax.tree.map(split, state, is_leaf=is_of_tensors)
