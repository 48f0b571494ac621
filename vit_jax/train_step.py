"""The state of a run and the pure, jitted function that takes it one step further. Twin: `vit_torch/train_step.py`."""

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
from .mix import mix_images, mix_targets
from .models import Model, create_model
from .normalize import normalize
from .optim import learning_rate, make_optimizer
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
        ema: The average of the parameters, if the recipe asks for it.
    """

    step: Any
    params: Params
    opt_state: Any
    ema: Params | None = None


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The compiled-on-demand functions of a run; all of them run under `jax.set_mesh(mesh)`.

    Attributes:
        model: Abstract: the structure that parameters are bound to.
        mesh: Over which state and batches are split.
        shardings: Of each leaf of the state.
        init: From a key to the first state, created where it belongs.
        start: From the first parameters, which are where they belong, to the first state.
        step: From state, batch and key to the next state (the old one is donated) and metrics. The batch holds uint8
            images (b, h, w, c) and labels, and what `parity.data.mix_draws` adds; the key is that of the run.
    """

    model: Model
    mesh: Mesh
    shardings: TrainState
    init: Callable[[random.Key], TrainState]
    start: Callable[[Params], TrainState]
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
    optimizer = make_optimizer(recipe.optimizer, model, steps=recipe.steps)
    dtype = jnp.float64 if recipe.precision == "float64" else jnp.float32

    def init(key: random.Key) -> TrainState:
        params = params_of(create_model(config, rngs=nnx.Rngs(key)))
        return start({name: value.astype(dtype) for name, value in params.items()})

    def start(params: Params) -> TrainState:
        # A copy, for one buffer can't be donated twice.
        ema = None if recipe.ema_decay is None else jax.tree.map(jnp.copy, params)
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params), ema=ema)

    shardings = _state_shardings(jax.eval_shape(init, _abstract_key()), parameter_shardings(model, mesh), mesh)
    step = jax.jit(
        make_train_step(model, recipe),
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
        start=jax.jit(start, out_shardings=shardings, compiler_options=init_options),
        step=step,
    )


def make_train_step(model: Model, recipe: Recipe) -> TrainStep:
    """One step of gradient descent as a pure function of state, batch and the run's key."""
    optimizer = make_optimizer(recipe.optimizer, model, steps=recipe.steps)

    def train_step(state: TrainState, batch: Mapping[str, jax.Array], key: random.Key) -> tuple[TrainState, Metrics]:
        # A resumed run draws the same masks, because the step alone decides them.
        key = random.fold_in(key, state.step)
        (loss, accuracy), grads = _gradients(model, recipe, state.params, _inputs(model, recipe, batch), key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)  # optax's type is any tree
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": learning_rate(state.step, recipe.optimizer, steps=recipe.steps),
        }
        ema = None if state.ema is None else _averaged(state.ema, params, recipe.ema_decay)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics

    return train_step


def _inputs(model: Model, recipe: Recipe, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalised images, targets and labels."""
    images = normalize(batch["image"], model.config.preprocessing, jnp.dtype(recipe.precision))
    if not recipe.data.augmentation.mixes:
        return images, batch["label"], batch["label"]
    lam = batch["lam"]
    targets = mix_targets(batch["label"], lam, num_classes=model.config.num_classes, dtype=images.dtype)
    return mix_images(images, lam, batch["box"]), targets, batch["label"]


def _gradients(
    model: Model, recipe: Recipe, params: Params, inputs: tuple[jax.Array, ...], key: random.Key
) -> tuple[tuple[jax.Array, jax.Array], Params]:
    """Mean loss, accuracy and gradients of a batch, computed in `recipe.accumulate` parts."""
    compute_dtype = jnp.dtype(recipe.precision)

    def loss_and_accuracy(
        params: Params, inputs: tuple[jax.Array, ...], key: random.Key
    ) -> tuple[jax.Array, jax.Array]:
        # The cast is part of the differentiated function: gradients come back in the parameters' own precision.
        cast = {name: value.astype(compute_dtype) for name, value in params.items()}
        images, targets, labels = inputs
        logits = bind(model, cast)(images, key=key)
        loss = cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        return loss.mean(), (logits.argmax(axis=-1) == labels).mean()

    compute = jax.value_and_grad(loss_and_accuracy, has_aux=True)
    parts = recipe.accumulate
    if parts == 1:
        return compute(params, inputs, key)
    # Part i is rows i, i + parts, ...: each device takes its own rows, and nothing is sent.
    split = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), inputs)
    keys = jnp.stack([random.fold_in(key, part) for part in range(parts)])

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, compute(params, *part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute, params, inputs, key))
    total, _ = jax.lax.scan(add, zeros, (split, keys))
    return jax.tree.map(lambda x: x / parts, total)


def _averaged(ema: Params, params: Params, decay: float | None) -> Params:
    """Decay * ema + (1 - decay) * params."""
    assert decay is not None  # there is an average for such recipes alone
    return {name: ema[name] * decay + params[name] * (1 - decay) for name in ema}


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
