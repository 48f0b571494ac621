"""Random parameters and images that hide nothing: no zeros, no ones, no symmetry."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from ..configs import Config

Shape = tuple[int, ...]


def random_parameters(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, np.ndarray]:
    """A float64 value for every parameter, also for those that initialise to 0 or 1.

    Activations stay of order 1 at any depth: linear maps keep the variance of their input, and each block adds about
    half of it. A tensor's values depend on its name, its shape and the seed alone, so a model of fewer blocks has the
    values of the whole one.

    Args:
        shapes: By canonical name.
        seed: Another one gives other values for every tensor.
    """
    return {name: _random(name, shape, seed) for name, shape in shapes.items()}


def random_images(config: Config, batch_size: int, seed: int = 0) -> np.ndarray:
    """Standard normal float64 images (b, h, w, c): normalised inputs of the config's size."""
    rng = np.random.default_rng([seed, zlib.crc32(b"images")])
    return rng.standard_normal((batch_size, *config.image_size, config.in_chans))


def _random(name: str, shape: Shape, seed: int) -> np.ndarray:
    value = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
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
