"""The values that a run starts from: the same in both frameworks, on any mesh, in any number of processes.

Each tensor is drawn by itself, in its canonical layout, from a counter-based generator (Philox; Salmon et al. 2011):
its key is the seed and the canonical name, its counter the place in the tensor. So a part is drawn without the rest,
and is the same whoever draws it. Values are float32, in a float64 run too.

An initialisation is what a project does, from its own code:

| | `timm` | `jax` (timm's `weight_init='jax'`) | `moco` (timm's) | `big_vision` |
| --- | --- | --- | --- | --- |
| linear | normal 0.02 | Xavier uniform, qkv as one | Xavier uniform, q, k, v apart | the same as `moco` |
| linear bias | 0 | normal 1e-6 in MLPs, else 0 | 0 | normal 1e-6 in MLPs, else 0 |
| head | normal 0.02 | 0 | Xavier uniform | 0 |
| convolution | uniform to fan_in^-1/2, bias too | LeCun normal, bias 0 | as `timm` | LeCun normal, bias 0 |
| class and register tokens | normal 1e-6 | normal 1e-6 | normal 1e-6 | 0 |
| positions | normal 0.02 | normal 0.02 | normal 0.02 | normal dim^-1/2 |
| query of attention pooling | normal dim^-1/2 | normal dim^-1/2 | normal dim^-1/2 | Xavier uniform |

timm truncates its normals at -2 and 2, which is 100 deviations; LeCun's are truncated at two deviations. What isn't in
the table is no matter of the initialisation: mask tokens are normal 0.02, the factors of differential attention normal
0.1, norms 1, LayerScale what the config says, and other tensors 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoints.containers.stored import Index, Tensors
from ..checkpoints.shapes import is_statistic
from ..configs import Config
from .recipe import Initialization
from .rules import HEADS

Shape = tuple[int, ...]

# Numbers that share a counter; a part of a tensor costs at most this many more.
_CHUNK = 1 << 16
# What is left of the deviation of a normal distribution that is cut at two deviations.
_CUT = 0.87962566103423978
# Projections that are stored as one.
_PARTS = {"qkv": 3, "kv": 2}


class Law(NamedTuple):
    """A distribution.

    Attributes:
        kind: `normal`, `lecun` (a normal that is cut at two deviations, of this deviation afterwards), `uniform` or
            `constant`.
        scale: The deviation, the bound of a uniform distribution, or the constant.
    """

    kind: str
    scale: float


class InitialTensors(Tensors):
    """The first values of a model's tensors by canonical name, each drawn when it is asked for, in whole or in part.

    Args:
        shapes: The shape of each tensor.
        config: The config of the model.
        initialization: The distributions.
        seed: The seed of the run.
    """

    path = Path("the values of the seed")

    def __init__(self, shapes: Mapping[str, Shape], config: Config, initialization: Initialization, seed: int):
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._config = config
        self._initialization: Initialization = initialization
        self._seed = seed

    def __getitem__(self, name: str) -> np.ndarray:
        """Draws one tensor, float32."""
        return self.slice(name, ())

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor; draws none."""
        return dict(self._shapes)

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor; draws none."""
        return dict.fromkeys(self._shapes, np.dtype(np.float32))

    def slice(self, name: str, index: Index) -> np.ndarray:
        """Draws a part of one tensor, and beside it only what shares a counter or the first axis with it."""
        shape = self._shapes[name]
        special = self._config.initial(name, shape, self._generator(name, 0))
        if special is not None:
            return np.array(special.astype(np.float32)[index], order="C")
        chosen = law(name, self._shapes, self._config, self._initialization)
        first, last, _ = index[0].indices(shape[0]) if index and shape else (0, shape[0] if shape else 1, 1)
        row = math.prod(shape[1:])
        values = self._draw(name, chosen, first * row, max(first, last) * row)
        values = values.reshape(max(0, last - first), *shape[1:]) if shape else values.reshape(())
        return np.array(values[(slice(None), *index[1:])] if index else values, order="C")

    def _draw(self, name: str, chosen: Law, start: int, stop: int) -> np.ndarray:
        """The numbers from one place of the flattened tensor to another."""
        if chosen.kind == "constant":
            return np.full(stop - start, chosen.scale, np.float32)
        values = np.empty(stop - start, np.float32)
        for chunk in range(start // _CHUNK, -(-stop // _CHUNK)):
            drawn = _sample(chosen, self._generator(name, 1 + chunk))
            low, high = max(start, chunk * _CHUNK), min(stop, (chunk + 1) * _CHUNK)
            values[low - start : high - start] = drawn[low - chunk * _CHUNK : high - chunk * _CHUNK]
        return values

    def _generator(self, name: str, counter: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        # The lowest words count the numbers that are drawn; the highest is the place.
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=counter << 192))


def law(name: str, shapes: Mapping[str, Shape], config: Config, initialization: Initialization) -> Law:
    """The distribution of a tensor.

    Args:
        name: Canonical, such as `blocks.0.attn.qkv.weight`.
        shapes: The shapes of all tensors of the model.
        config: The config of the model, which says what isn't drawn.
        initialization: What a project does.
    """
    shape, last = shapes[name], name.rpartition(".")[2]
    dim = shape[-1] if shape else 1
    google = initialization in ("jax", "big_vision")
    if is_statistic(name) or last == "gamma":
        return Law("constant", config.constant(name))
    if last == "weight" and len(shape) > 1:
        return _of_kernel(name, shape, initialization)
    if last == "bias":
        kernel = shapes.get(f"{name.removesuffix('bias')}weight", ())
        if len(kernel) == 4 and not google:
            return Law("uniform", math.prod(kernel[1:]) ** -0.5)
        small = google and len(kernel) == 2 and ".mlp." in f".{name}"
        return Law("normal", 1e-6) if small else Law("constant", 0.0)
    if last in ("cls_token", "dist_token", "reg_token"):
        return Law("constant", 0.0) if initialization == "big_vision" else Law("normal", 1e-6)
    if last == "pos_embed":
        return Law("normal", dim**-0.5 if initialization == "big_vision" else 0.02)
    if last == "latent":
        big_vision = Law("uniform", math.sqrt(6 / (1 + dim)))
        return big_vision if initialization == "big_vision" else Law("normal", dim**-0.5)
    if last == "mask_token":
        return Law("normal", 0.02)
    return Law("normal", 0.1) if last.startswith("lambda_") else Law("constant", config.constant(name))


def _of_kernel(name: str, shape: Shape, initialization: Initialization) -> Law:
    google = initialization in ("jax", "big_vision")
    fan_in = math.prod(shape[1:])
    if name.split(".")[0] in HEADS and google:
        return Law("constant", 0.0)
    if len(shape) == 4:
        return Law("lecun", fan_in**-0.5) if google else Law("uniform", fan_in**-0.5)
    if initialization == "timm":
        return Law("normal", 0.02)
    parts = 1 if initialization == "jax" else _PARTS.get(name.split(".")[-2], 1)
    return Law("uniform", math.sqrt(6 / (fan_in + shape[0] // parts)))


def _sample(chosen: Law, rng: np.random.Generator) -> np.ndarray:
    """All numbers of a counter, in float64."""
    if chosen.kind == "uniform":
        return rng.uniform(-chosen.scale, chosen.scale, _CHUNK)
    values = rng.standard_normal(_CHUNK)
    if chosen.kind == "normal":
        return values * chosen.scale
    while len(beyond := np.flatnonzero(np.abs(values) > 2)):
        values[beyond] = rng.standard_normal(len(beyond))
    return values * (chosen.scale / _CUT)
