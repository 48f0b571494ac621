"""Training in either framework, step by step, on batches that both are given."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
import torch
from jax.sharding import Mesh

import vit_jax.optim
import vit_jax.random
import vit_jax.sharding
import vit_jax.stacks
import vit_jax.state_dict
import vit_jax.train_step
import vit_torch.optim
import vit_torch.random
import vit_torch.state_dict
import vit_torch.train_step

from ..checkpoints import Checkpoint
from ..configs import Config
from ..data import Source, open_source, train_batches
from ..recipes import Recipe
from .twins import Tensors

Batch = dict[str, np.ndarray]
Trees = dict[str, dict[str, np.ndarray]]


def source_of(recipe: Recipe) -> Source:
    """The training images of a recipe."""
    return open_source(recipe.data.name, recipe.data.train_split, folder=recipe.data.folder)


def batches_of(source: Source, recipe: Recipe, config: Config) -> Generator[Batch]:
    """Training batches of the model's size, to be closed; grey images get as many channels as it takes."""
    batches = train_batches(
        source.with_channels(3 if config.in_chans == 3 else 1),
        batch_size=recipe.batch_size,
        image_size=config.image_size,
        preprocessing=config.preprocessing,
        augmentation=recipe.data.augmentation,
        seed=recipe.seed,
        num_threads=0,
    )
    with closing(batches):
        for batch in batches:
            image = np.broadcast_to(batch["image"], (*batch["image"].shape[:3], config.in_chans)).copy()
            yield batch | {"image": image}


class FlaxRun:
    """The run in Flax.

    Args:
        recipe: The recipe.
        config: The model.
        tensors: The first parameters and statistics; None for those of the recipe's seed.
        frozen: The checkpoints of the models that help.
        mesh: The devices, as from `vit_jax.sharding.make_mesh`; None for the first one.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: Config,
        tensors: Tensors | None = None,
        frozen: Mapping[str, Checkpoint] | None = None,
        mesh: Mesh | None = None,
    ):
        self._mesh = mesh or vit_jax.sharding.make_mesh(data=1, devices=jax.devices()[:1])
        self._key = vit_jax.random.key(recipe.seed)
        with jax.set_mesh(self._mesh):
            self.trainer = vit_jax.train_step.make_trainer(recipe, config, self._mesh, frozen)
            self.state = self.trainer.init(recipe.seed) if tensors is None else self.trainer.load(tensors)

    def restarted(self, tensors: Tensors) -> FlaxRun:
        """Another run of the same compiled step, from these parameters."""
        other = copy.copy(self)
        with jax.set_mesh(self._mesh):
            other.state = self.trainer.load(tensors)
        return other

    def step(self, batch: Batch) -> Mapping[str, Any]:
        """Makes a step; its metrics."""
        with jax.set_mesh(self._mesh):
            self.state, metrics = self.trainer.step(self.state, self._placed(batch), self._key)
        return metrics

    def gradients(self, batch: Batch) -> dict[str, np.ndarray]:
        """The gradients of a step that isn't made, in the canonical layout."""
        with jax.set_mesh(self._mesh):
            return self._canonical(self.trainer.gradients(self.state, self._placed(batch), self._key)[1])

    def trees(self) -> Trees:
        """What the state holds, in the canonical layout."""
        kinds = _kinds(self.state, vit_jax.optim.moments_of(self.state.opt_state))
        return {kind: self._canonical(tree) for kind, tree in kinds}

    def _placed(self, batch: Batch) -> dict[str, jax.Array]:
        sharding = vit_jax.sharding.batch_sharding(self._mesh)
        return {name: jax.device_put(value, sharding) for name, value in batch.items()}

    def _canonical(self, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
        rules = {name: rule for name, _, rule, _ in vit_jax.state_dict.named_leaves(self.trainer.model)}
        arrays = {name: np.asarray(value) for name, value in vit_jax.stacks.unstacked(tree).items()}
        return {name: rules[name].to_canonical(value) if name in rules else value for name, value in arrays.items()}


class TorchRun:
    """The run in PyTorch, on the CPU; arguments as of `FlaxRun`."""

    def __init__(
        self,
        recipe: Recipe,
        config: Config,
        tensors: Tensors | None = None,
        frozen: Mapping[str, Checkpoint] | None = None,
    ):
        self._key = vit_torch.random.key(recipe.seed)
        self.trainer = vit_torch.train_step.make_trainer(recipe, config, frozen=frozen)
        self.state = self.trainer.init(recipe.seed) if tensors is None else self.trainer.load(tensors)

    def step(self, batch: Batch) -> Mapping[str, Any]:
        """Makes a step; its metrics."""
        self.state, metrics = self.trainer.step(self.state, _tensors(batch), self._key)
        return metrics

    def gradients(self, batch: Batch) -> dict[str, np.ndarray]:
        """The gradients of a step that isn't made."""
        return _arrays(self.trainer.gradients(self.state, _tensors(batch), self._key)[1])

    def trees(self) -> Trees:
        """What the state holds."""
        kinds = _kinds(self.state, vit_torch.optim.moments_of(self.state.opt_state))
        return {kind: _arrays(tree) for kind, tree in kinds}


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def _arrays(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: vit_torch.state_dict.to_numpy(value) for name, value in tree.items()}


def _kinds(state: Any, moments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Trees of a state by name; the same code for both frameworks."""
    trees = [("parameters", state.params), *moments.items(), ("ema", state.ema), ("statistics", state.statistics)]
    return [(name, tree) for name, tree in (*trees, *state.carried.items()) if tree]
