"""How fast float32 training runs part: across frameworks, and within one whose sums are taken in another order.

The second is the yardstick of the first. The mean over a batch doesn't depend on the order of its rows, nor a model on
the order of its channels, but their rounding does; training amplifies that, and nothing can be done about it. Two
frameworks that part no faster than one framework parts from itself are, in that precision, the same.

Permuted rows change the sums over the batch alone; permuted channels, like another framework, those of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.checkpoints import parameter_shapes
from parity.checks.runs import FlaxRun, TorchRun
from parity.checks.twins import DTYPES, Tensors, exact_jax
from parity.recipes import Recipe
from parity.recipes.initial import InitialTensors
from parity.runs.inputs import Inputs

ACROSS = "Flax and PyTorch"
# Of each framework, what is in another order there: rows of the batch, or channels of the model.
WITHIN = {(name, what): f"{name}, {what} permuted" for what in ("rows", "channels") for name in ("Flax", "PyTorch")}
PAIRS = (ACROSS, *WITHIN.values())

# The axes of each parameter of a plain ViT that count tokens' channels and hidden units, by the end of its name.
_CHANNELS = {
    "patch_embed.proj.weight": 0,
    "patch_embed.proj.bias": 0,
    "cls_token": 2,
    "pos_embed": 2,
    "norm.weight": 0,
    "norm.bias": 0,
    "norm1.weight": 0,
    "norm1.bias": 0,
    "norm2.weight": 0,
    "norm2.bias": 0,
    "attn.qkv.weight": 1,
    "attn.proj.weight": 0,
    "attn.proj.bias": 0,
    "mlp.fc1.weight": 1,
    "mlp.fc2.weight": 0,
    "mlp.fc2.bias": 0,
    "head.weight": 1,
}
_HIDDEN = {"mlp.fc1.weight": 0, "mlp.fc1.bias": 0, "mlp.fc2.weight": 1}
_NEITHER = ("attn.qkv.bias", "head.bias")

OnStep = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How two runs part.

    Attributes:
        loss: |difference| of the losses of each step, (steps,).
        parameters: Relative L2 distance of all parameters after each measured step.
        measured: The steps that `parameters` is of, from 1.
    """

    loss: np.ndarray
    parameters: np.ndarray
    measured: np.ndarray


def measure_divergence(
    recipe: Recipe, *, every: int = 1, plant: Callable[[TorchRun], None] | None = None, on_step: OnStep | None = None
) -> dict[str, Divergence]:
    """Makes six runs side by side from the same parameters on the same batches: each framework, plain and permuted.

    Args:
        recipe: The recipe of the runs, without dropout, drop path and mixing, which tie random numbers to rows.
        every: How many steps there are between two measurements of the parameters.
        plant: Changes all of PyTorch's runs before they start, to see what it does to the comparison.
        on_step: Called with the number of each step, from 1.

    Returns:
        By pair: the frameworks, and each of them and itself with the rows of every batch, or its channels, permuted.

    Raises:
        ValueError: The recipe draws random numbers for rows, or its model isn't a plain ViT.
    """
    for field in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        if getattr(recipe, field):
            raise ValueError(f"{field}: got {getattr(recipe, field)}, expected 0: masks belong to rows")
    if recipe.data.augmentation.mixes:
        raise ValueError("augmentation: expected neither mixup nor cutmix, which pair rows")
    inputs = Inputs(recipe)
    config = inputs.config
    tensors = InitialTensors(parameter_shapes(config), config, recipe.initialization, recipe.seed)
    losses: dict[str, list[float]] = {pair: [] for pair in PAIRS}
    distances: dict[str, list[float]] = {pair: [] for pair in PAIRS}
    measured = [step for step in range(1, recipe.steps + 1) if step % every == 0 or step == recipe.steps]
    order, permuted = np.random.default_rng(recipe.seed), _permuted(tensors, recipe.seed)
    with exact_jax(DTYPES[recipe.precision]), closing(inputs.train_batches()) as batches:
        flax = FlaxRun(recipe, config, tensors)
        starts = {"": tensors, "rows": tensors, "channels": permuted}
        runs: dict[tuple[str, str], FlaxRun | TorchRun] = {}
        for what, start in starts.items():
            pytorch = TorchRun(recipe, config, start)
            if plant is not None:
                plant(pytorch)
            runs |= {("Flax", what): flax.restarted(start), ("PyTorch", what): pytorch}
        for step in range(1, recipe.steps + 1):
            batch = next(batches)
            rows = order.permutation(len(batch["label"]))
            shuffled = {name: value[rows] for name, value in batch.items()}
            found = {key: float(run.step(shuffled if key[1] == "rows" else batch)["loss"]) for key, run in runs.items()}
            for pair, one, two in _pairs(found):
                losses[pair].append(abs(one - two))
            if step in measured:
                trees = {key: run.trees()["parameters"] for key, run in runs.items()}
                trees |= {
                    key: _permuted(tree, recipe.seed, back=True) for key, tree in trees.items() if key[1][:1] == "c"
                }
                for pair, one, two in _pairs(trees):
                    distances[pair].append(_distance(one, two))
            if on_step is not None:
                on_step(step)
    return {
        pair: Divergence(loss=np.array(losses[pair]), parameters=np.array(distances[pair]), measured=np.array(measured))
        for pair in PAIRS
    }


def _permuted(tensors: Tensors, seed: int, *, back: bool = False) -> Tensors:
    """The same function with tokens' channels and the hidden units of each MLP in another order, or back in theirs."""
    found = {}
    for name, value in tensors.items():
        known = [key for key in (*_CHANNELS, *_HIDDEN, *_NEITHER) if name == key or name.endswith(f".{key}")]
        if not known:
            raise ValueError(f"{name}: expected a plain ViT, for its channels are to be permuted")
        block = name.partition(known[0])[0]
        for axes, of in ((_CHANNELS, ""), (_HIDDEN, block)):
            if known[0] in axes:
                axis = axes[known[0]]
                order = np.random.default_rng([seed, *of.encode()]).permutation(value.shape[axis])
                value = np.take(value, np.argsort(order) if back else order, axis)
        found[name] = np.ascontiguousarray(value)
    return found


def _pairs(runs: Mapping[tuple[str, str], Any]) -> list[tuple[str, Any, Any]]:
    """What is compared with what, by the name of the pair."""
    plain = {name: runs[name, ""] for name in ("Flax", "PyTorch")}
    within = [(pair, plain[name], runs[name, what]) for (name, what), pair in WITHIN.items()]
    return [(ACROSS, plain["Flax"], plain["PyTorch"]), *within]


def _distance(one: Tensors, two: Tensors) -> float:
    """Relative L2 distance of two sets of parameters, each taken as one vector."""
    left, right = (np.concatenate([tree[name].ravel().astype(np.float64) for name in two]) for tree in (one, two))
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


def ratios(found: Mapping[str, Divergence], *, first: int = 10) -> dict[str, float]:
    """How many times farther apart the frameworks are than one and itself, permuted: the farthest of the four.

    Args:
        found: What `measure_divergence` returned.
        first: The step from which on parameters count. Before it a parameter without a gradient, such as the bias of
            the keys, moves by the sign of rounding errors, and each framework has its own.

    Returns:
        `loss`: of the mean difference; `parameters`: the geometric mean over the measured steps.
    """
    across, *within = (found[pair] for pair in PAIRS)
    steps = across.measured >= first
    farthest = np.max([runs.parameters for runs in within], axis=0)
    return {
        "loss": float(across.loss.mean() / max(runs.loss.mean() for runs in within)),
        "parameters": float(np.exp(np.log(across.parameters[steps] / farthest[steps]).mean())),
    }
