"""Random parameters and inputs that hide nothing: no zeros, no ones, no symmetry."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from ..configs import Config

Shape = tuple[int, ...]
# What a model is called with, by the name of the argument, in the order of the arguments.
Inputs = dict[str, np.ndarray]


def random_parameters(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, np.ndarray]:
    """A float64 value for every parameter, also for those that initialise to 0 or 1.

    Activations stay of order 1 at any depth: linear maps keep the variance of their input, and each block adds about
    half of it. A tensor's values depend on its name, its shape and the seed alone, so a model of fewer blocks has the
    values of the whole one.

    Args:
        shapes: The shapes by canonical name.
        seed: Another one gives other values for every tensor.
    """
    return {name: _random(name, shape, seed) for name, shape in shapes.items()}


def random_inputs(config: Config, batch_size: int, seed: int = 0) -> Inputs:
    """Every input of a config's model: standard normal float64 values, and token ids that are equally likely.

    Args:
        config: The config, which says what the model is called with.
        batch_size: The number of examples.
        seed: Another one gives other values for every input.
    """
    found = {}
    for one in config.inputs:
        rng, shape = np.random.default_rng([seed, zlib.crc32(one.name.encode())]), (batch_size, *one.shape)
        found[one.name] = (
            rng.standard_normal(shape) if one.vocabulary is None else rng.integers(0, one.vocabulary, shape, np.int32)
        )
    return found


def random_images(config: Config, batch_size: int, seed: int = 0) -> np.ndarray:
    """Standard normal float64 images (b, h, w, c): normalised inputs of the config's size."""
    return random_inputs(config, batch_size, seed)["images"]


def as_inputs(config: Config, given: np.ndarray | Mapping[str, np.ndarray]) -> Inputs:
    """What a config's model is called with, by name, of all its inputs by name or of its only one.

    Raises:
        ValueError: Inputs of other names.
    """
    names = [one.name for one in config.inputs]
    found = dict(given) if isinstance(given, Mapping) else {names[0]: given}
    if set(found) != set(names):
        raise ValueError(f"inputs: got {', '.join(found)}, expected {', '.join(names)} by name")
    return {name: found[name] for name in names}


def _random(name: str, shape: Shape, seed: int) -> np.ndarray:
    value = np.asarray(np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape))
    kind = name.rpartition(".")[2]
    if kind in ("bias", "q_bias", "v_bias", "mlp_bias"):
        return 0.2 * value
    if kind.startswith("lambda_"):  # their products go through exp
        return 0.1 * value
    if kind == "running_var":  # of BatchNorm
        return 0.5 + value**2
    if kind == "gamma":  # LayerScale
        return 0.7 + 0.1 * value
    if kind == "weight" and len(shape) == 1:  # a norm's scale
        return 1.0 + 0.2 * value
    if kind == "weight":
        return value / np.sqrt(value[0].size)
    return 0.5 * value  # tokens, position embeddings and the query of attention pooling
