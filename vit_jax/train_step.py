"""The state of a run and the pure, jitted function that takes it one step further."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from parity.configs import Config
from parity.recipes import Recipe

from . import random
from .functional import Params, bind, params_of
from .losses import cross_entropy
from .models import Model, create_model
from .optim import learning_rate_schedule, make_optimizer
from .preprocessing import normalize
from .sharding import batch_sharding, parameter_shardings, replicated

Metrics = dict[str, jax.Array]
TrainStep = Callable[["TrainState", Mapping[str, jax.Array], random.Key], tuple["TrainState", Metrics]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a step changes.

    Attributes:
        step: Steps that were made, int32.
        params: By canonical name, float32 or float64.
        opt_state: optax's.
    """

    step: Any
    params: Params
    opt_state: Any


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The compiled-on-demand functions of a run; all of them run under `jax.set_mesh(mesh)`.

    Attributes:
        model: Abstract: the structure that parameters are bound to.
        mesh: Over which state and batches are split.
        shardings: Of each leaf of the state.
        init: From a key to the first state, created where it belongs.
        step: From state, batch and key to the next state (the old one is donated) and metrics. The batch holds uint8
            images (b, h, w, c) and labels; the key is that of the run.
    """

    model: Model
    mesh: Mesh
    shardings: TrainState
    init: Callable[[random.Key], TrainState]
    step: Any

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state, without memory."""
        shapes = jax.eval_shape(self.init, _abstract_key())
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.shardings,
        )


def make_trainer(recipe: Recipe, config: Config, mesh: Mesh) -> Trainer:
    """Builds the functions of a run.

    Args:
        recipe: Of the run.
        config: The model's.
        mesh: From `make_mesh`; its devices may be those of a topology that isn't there, to compile for.
    """
    model = nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0), execution=recipe.execution))
    optimizer = make_optimizer(recipe.optimizer, steps=recipe.steps, model=model)
    dtype = jnp.float64 if recipe.precision == "float64" else jnp.float32

    def init(key: random.Key) -> TrainState:
        params = params_of(create_model(config, rngs=nnx.Rngs(key)))
        params = {name: value.astype(dtype) for name, value in params.items()}
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    shardings = _state_shardings(jax.eval_shape(init, _abstract_key()), parameter_shardings(model, mesh), mesh)
    step = jax.jit(
        make_train_step(model, optimizer, recipe),
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    # Drawing the initial values isn't worth optimising: on a CPU that takes five times as long to compile.
    init_options = {"xla_backend_optimization_level": 0}
    return Trainer(
        model=model,
        mesh=mesh,
        shardings=shardings,
        init=jax.jit(init, out_shardings=shardings, compiler_options=init_options),
        step=step,
    )


def make_train_step(model: Model, optimizer: optax.GradientTransformation, recipe: Recipe) -> TrainStep:
    """One step of gradient descent as a pure function of state, batch and the run's key."""
    compute_dtype = jnp.dtype(recipe.precision)
    schedule = learning_rate_schedule(recipe.optimizer, steps=recipe.steps)

    def loss_and_accuracy(
        params: Params, batch: Mapping[str, jax.Array], key: random.Key
    ) -> tuple[jax.Array, jax.Array]:
        # The cast is part of the differentiated function: gradients come back in the parameters' own precision.
        cast = {name: value.astype(compute_dtype) for name, value in params.items()}
        images = normalize(batch["image"], model.config.preprocessing, compute_dtype)
        logits = bind(model, cast)(images, key=key)
        loss = cross_entropy(logits, batch["label"], label_smoothing=recipe.label_smoothing)
        return loss.mean(), (logits.argmax(axis=-1) == batch["label"]).mean()

    def train_step(state: TrainState, batch: Mapping[str, jax.Array], key: random.Key) -> tuple[TrainState, Metrics]:
        # A resumed run draws the same masks, because the step alone decides them.
        key = jax.random.fold_in(key, state.step)
        (loss, accuracy), grads = jax.value_and_grad(loss_and_accuracy, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        params: Any = optax.apply_updates(state.params, updates)  # optax's type is any tree
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


def _abstract_key() -> random.Key:
    """A key without a device, for the mesh's may not be there."""
    return jax.eval_shape(lambda: random.key(0))


def _state_shardings(state: TrainState, params: Mapping[str, jax.sharding.NamedSharding], mesh: Mesh) -> TrainState:
    """The optimiser keeps dictionaries like the parameters', which are split as they are; counters are whole."""

    def is_like_params(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == params.keys()

    return jax.tree.map(
        lambda node: dict(params) if is_like_params(node) else replicated(mesh), state, is_leaf=is_like_params
    )
