"""The state of a run, read from what either framework wrote, without either of them.

Flax's arrays are read by Orbax and brought to the canonical layout as `model.json` says (`parity/checkpoints/formats`);
PyTorch's are in the canonical layout, and their file is read as any file of `torch.save` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import CheckpointError
from ..checkpoints.accounting import LINES, cut
from ..checkpoints.containers.document import read_json
from ..checkpoints.containers.orbax_directory import read_arrays, read_values
from ..checkpoints.containers.pickle_file import read_described
from ..checkpoints.containers.tensors import open_tensors
from ..checkpoints.formats import run
from ..checkpoints.shapes import is_statistic
from ..recipes import MOMENTS
from .directory import read_recipe
from .metrics import read_metrics
from .origin import read_origin
from .training_state import TrainingState

# PyTorch's names of what optimisers remember, by optax's.
TORCH_MOMENTS = {"adamw": {"mu": "exp_avg", "nu": "exp_avg_sq"}, "sgd": {"trace": "momentum_buffer"}}
# Of an optimiser's tensors in a file of PyTorch: before the number of the parameter.
_STATE = "optimizer.state."


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What a checkpoint holds.

    Attributes:
        parts: The parts of the state that are arrays by canonical name: `params`, and `ema` if there is one.
        moments: What the optimiser remembers, by kind and canonical name.
        carried: What the objective carries from step to step.
        counts: What each counter says, by what it is called.
        data: The position of the data iterator.
    """

    parts: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    moments: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    carried: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def read_training(path: str | Path, *, step: int | None = None) -> TrainingState:
    """The state of a run, whichever framework trained it, on whatever mesh; what Flax trained needs Orbax installed.

    Args:
        path: The run's directory.
        step: The step of the checkpoint; the latest by default.

    Raises:
        CheckpointError: No run, no such checkpoint, one whose tensors or counters aren't those of the recipe and the
            step, all in one report; or Orbax isn't installed and Flax trained the run.
    """
    path = Path(path)
    found = run.checkpoint(path, step)
    recipe = read_recipe(path)
    read = _read_torch if run.writer_of(found) == "torch" else _read_flax
    saved = read(path, found)
    number = int(found.name)
    wrong = [f"{name}: got {count}" for name, count in saved.counts.items() if count != number]
    if wrong:
        what = f"expected {number}, the step, of each counter"
        raise CheckpointError(f"{found}: {what}\n  {cut(wrong, between=LINES)}")
    if number == 0 or (recipe.optimizer.name == "sgd" and not recipe.optimizer.momentum):
        # optax keeps zeros from the start and a sum that nothing reads, and PyTorch only what it was given.
        for moment in MOMENTS[recipe.optimizer.name]:
            params = saved.parts.get("params", {}).items()
            zeros = {name: np.zeros_like(value) for name, value in params if not is_statistic(name)}
            saved.moments.setdefault(moment, zeros)
    state = TrainingState(
        recipe=recipe,
        step=number,
        params=saved.parts.get("params", {}),
        moments=saved.moments,
        ema=saved.parts.get("ema"),
        data=saved.data,
        metrics=tuple(record for record in read_metrics(path) if record["step"] <= number),
        origin=read_origin(path, recipe),
        carried=saved.carried,
    )
    state.check(source=str(found))
    return state


def _read_torch(path: Path, found: Path) -> _Saved:
    file = found / run.TORCH_STATE
    try:
        tensors, described = open_tensors(file), read_described(file)
        parts = {part: dict(tensors.under(f"{part}.")) for part in ("params", "ema") if described[part] is not None}
        saved = _Saved(parts=parts, counts={"step": described["step"]}, data=read_json(found / run.TORCH_DATA))
        _add_moments(saved, tensors, described["optimizer"])
        for group in described.get("carried", {}):
            saved.carried[group] = dict(tensors.under(f"carried.{group}."))
        return saved
    except (CheckpointError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{found}: not a sound checkpoint of training in PyTorch: {error}") from None


def _add_moments(saved: _Saved, tensors: Mapping[str, np.ndarray], optimizer: Mapping[str, Any]) -> None:
    """Adds what an optimiser's `state_dict` remembers; what is there under other names than `TORCH_MOMENTS` keeps it.

    Args:
        saved: What moments and counters are added to.
        tensors: All tensors of the file; the optimiser's are `optimizer.state.3.exp_avg` and the like.
        optimizer: What else there is; its groups have the names of their parameters.
    """
    names = {
        str(index): name
        for group in optimizer["param_groups"]
        for index, name in zip(group["params"], group["param_names"], strict=True)
    }
    ours = {theirs: moment for words in TORCH_MOMENTS.values() for moment, theirs in words.items()}
    for path in tensors:
        if path.startswith(_STATE):
            index, _, kind = path.removeprefix(_STATE).partition(".")
            if kind == "step":
                saved.counts[f"step of {names[index]}"] = int(tensors[path])
            else:
                saved.moments.setdefault(ours.get(kind, kind), {})[names[index]] = tensors[path]


def _read_flax(path: Path, found: Path) -> _Saved:
    """What a tree of Orbax holds: `params`, `ema`, `opt_state`, `step`, and `carried` if there is any."""
    model, saved = run.read_model(path, found), _Saved(data=read_values(found / run.DATA))
    for keys, value in read_arrays(found / run.STATE).items():
        if np.issubdtype(value.dtype, np.integer):
            saved.counts[".".join(keys)] = int(value)
            continue
        # A parameter's name is one key, and above it, within optax's chain, is what it is remembered as.
        kinds = {"opt_state": saved.moments, "carried": saved.carried}.get(keys[0], saved.parts)
        kinds.setdefault(keys[-2], {})[keys[-1]] = model.canonical(keys[-1], value)
    return saved
