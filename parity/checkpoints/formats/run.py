"""The directory of one of our own training runs: its files, and its parameters opened as a checkpoint.

| file | of |
| --- | --- |
| `recipe.json` | both frameworks: what was asked for |
| `model.json` | both: the model that trains, and how its arrays are laid out |
| `init.json` | both, if the run started from a checkpoint |
| `metrics.jsonl`, `tensorboard/` | both |
| `checkpoints/STEP/state/`, `checkpoints/STEP/data/` | Flax: Orbax |
| `checkpoints/STEP/state.pt`, `checkpoints/STEP/data.json` | PyTorch: `torch.save` |
| `model/`, `model_ema/` | both: native checkpoints, when the run is complete |

A checkpoint has its name only when it is whole.

A run says itself what is needed to read it, in `model.json`: the model's config, the registered name that it began as,
and of each array of Flax the einops pattern from its axes to the canonical ones (`Leaf`). So nothing here builds a
model: what Flax trained is read through Orbax, and what PyTorch trained without PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ... import configs, outputs
from ...configs import Config
from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.document import read_json
from ..containers.orbax_directory import OrbaxTensors
from ..containers.tensors import Tensors, open_tensors
from ..leaf import Leaf
from ..shapes import Shape, parameter_shapes

RECIPE = "recipe.json"
MODEL = "model.json"
INIT = "init.json"
CHECKPOINTS = "checkpoints"
STATE = "state"
DATA = "data"
TORCH_STATE = "state.pt"
TORCH_DATA = "data.json"

Framework = Literal["flax", "torch"]
FRAMEWORKS: tuple[Framework, ...] = ("flax", "torch")
NAMES: dict[Framework, str] = {"flax": "Flax", "torch": "PyTorch"}
# Kernels of linear layers and of convolutions, by their number of axes.
_KERNELS = {2: "i o -> o i", 4: "h w i o -> o i h w"}


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """The model of a run, as its directory describes it.

    Attributes:
        config: The model's config, with the classes of the data.
        name: The registered name that the config began as; empty if none.
        layouts: einops pattern of each array of Flax by canonical name, from its axes to the canonical ones (`Leaf`);
            empty where arrays are kept in the canonical layout, as PyTorch does it.
        file: Where that is written, for errors.
    """

    config: Config
    name: str
    layouts: Mapping[str, str] = field(default_factory=dict, repr=False)
    file: Path = Path(MODEL)

    def write(self, run: Path) -> None:
        """Writes `model.json` to a run's directory, whole or not at all."""
        data = {"name": self.name, "config": configs.to_dict(self.config)}
        data |= {"layouts": dict(self.layouts)} if self.layouts else {}
        outputs.write_text(run / MODEL, json.dumps(data, indent=2) + "\n")

    def canonical(self, name: str, value: np.ndarray) -> np.ndarray:
        """An array of the run in the canonical layout.

        Args:
            name: Canonical name of the array.
            value: The array as the run keeps it.

        Raises:
            CheckpointError: It has fewer axes than its layout.
        """
        leaf = self._leaf(name, value.shape)
        return value if leaf is None else leaf.to_canonical(value)

    def canonical_shape(self, name: str, shape: Shape) -> Shape:
        """Shape in the canonical layout of an array that the run keeps in some shape; raises as `canonical`."""
        leaf = self._leaf(name, shape)
        return shape if leaf is None else leaf.canonical_shape(shape)

    def _leaf(self, name: str, shape: Shape) -> Leaf | None:
        """The rule for an array of some shape; None for one that is canonical already."""
        layout = self.layouts.get(name)
        if layout is None:
            return None
        if len(shape) < len(layout.split(" -> ")[0].split()):
            got = f"got {list(shape)}, and its layout is {layout!r}"
            raise CheckpointError(f"{self.file}: layouts: {name}: {got}; remove the file and resume, which writes it")
        return Leaf(name, layout)


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run: a recipe, and checkpoints of training."""
    return (path / RECIPE).is_file() and (path / CHECKPOINTS).is_dir()


def steps(path: Path) -> list[int]:
    """Steps of the checkpoints that are there, ascending."""
    return sorted(int(child.name) for child in (path / CHECKPOINTS).glob("*") if child.name.isdecimal())


def checkpoint(path: Path, step: int | None = None) -> Path:
    """The directory of a checkpoint.

    Args:
        path: The run's directory.
        step: The step after which it was taken; the latest by default.

    Raises:
        CheckpointError: There is no run, or no such checkpoint; gives the steps that there are.
    """
    found = steps(path)
    if not (path / RECIPE).is_file():
        raise CheckpointError(f"{path}: got no training run, expected {RECIPE} and {CHECKPOINTS}/ there")
    if not found or (step is not None and step not in found):
        got = "the latest" if step is None else step
        raise CheckpointError(f"{path / CHECKPOINTS}: step: got {got}, expected one of {found}")
    return path / CHECKPOINTS / str(found[-1] if step is None else step)


def framework_of(path: Path) -> Framework | None:
    """The framework whose checkpoints a run has, or None if it has none yet.

    Raises:
        CheckpointError: The latest checkpoint is neither framework's.
    """
    return writer_of(checkpoint(path)) if steps(path) else None


def writer_of(checkpoint: Path) -> Framework:
    """The framework that wrote a checkpoint.

    Raises:
        CheckpointError: Neither did.
    """
    if (checkpoint / TORCH_STATE).is_file():
        return "torch"
    if (checkpoint / STATE).is_dir():
        return "flax"
    raise CheckpointError(f"{checkpoint}: expected Orbax's {STATE}/ or PyTorch's {TORCH_STATE} there")


def read(path: str | Path, *, step: int | None = None, ema: bool = False) -> Checkpoint:
    """Opens a run; no tensor is read yet.

    Args:
        path: The run's directory.
        step: The step of the checkpoint; the latest by default.
        ema: Whether to read the averaged parameters.

    Raises:
        CheckpointError: No run, no such step, no averaged parameters, a `model.json` that isn't sound, or Orbax isn't
            installed and Flax trained the run.
    """
    path = Path(path)
    read_json(path / RECIPE)
    found = checkpoint(path, step)
    model = read_model(path, found)
    tensors = arrays_of(found, "ema" if ema else "params")
    if model.layouts:
        tensors = _CanonicalTensors(tensors, model)
    format = "orbax" if writer_of(found) == "flax" else "pytorch"
    source = {"format": format, "path": str(path), "step": int(found.name), "ema": ema}
    return Checkpoint(path, model.config, model.name, source, tensors)


def read_model(run: Path, found: Path) -> RunModel:
    """The model of a run.

    Args:
        run: The run's directory.
        found: The directory of one of its checkpoints.

    Raises:
        CheckpointError: `model.json` doesn't say what it should; or an earlier version wrote the run, before there was
            that file, and the model doesn't follow from the recipe and the checkpoint.
    """
    file = run / MODEL
    if not file.is_file():
        return _model_of_earlier(run, found)
    data = read_json(file)
    try:
        layouts = dict(data.get("layouts", {}))
        wrong = [name for name, layout in layouts.items() if not _is_layout(layout)]
        if wrong:
            raise ValueError(f"layouts: {wrong[0]}: got {layouts[wrong[0]]!r:.80}, expected one such as 'i o -> o i'")
        return RunModel(config=configs.from_dict(data["config"]), name=str(data["name"]), layouts=layouts, file=file)
    except (ValueError, LookupError, TypeError) as error:
        what = "doesn't say what model the run trains"
        raise CheckpointError(f"{file}: {what}: {error}; remove it, and resuming the run writes it again") from None


def arrays_of(found: Path, part: str) -> Tensors:
    """The arrays of a checkpoint as they are kept there; none is read yet.

    Args:
        found: The directory of the checkpoint.
        part: `params` or `ema`.

    Raises:
        CheckpointError: No sound checkpoint, or one without that part.
    """
    if writer_of(found) == "torch":
        return open_tensors(found / TORCH_STATE).under(f"{part}.")
    return OrbaxTensors(found / STATE, part)


class _CanonicalTensors(Tensors):
    """What a run keeps, each array brought to the canonical layout when it is asked for."""

    def __init__(self, arrays: Tensors, model: RunModel):
        self.path, self._arrays, self._model = arrays.path, arrays, model

    def __getitem__(self, name: str) -> np.ndarray:
        return self._model.canonical(name, self._arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def shapes(self) -> dict[str, Shape]:
        return {name: self._model.canonical_shape(name, shape) for name, shape in self._arrays.shapes().items()}

    def dtypes(self) -> dict[str, np.dtype]:
        return self._arrays.dtypes()


def _is_layout(layout: Any) -> bool:
    """Whether a value is an einops pattern that only orders axes."""
    sides = [side.split() for side in layout.split(" -> ")] if isinstance(layout, str) else []
    names = all(name.isidentifier() for side in sides for name in side)
    return len(sides) == 2 and names and sorted(sides[0]) == sorted(sides[1]) and len({*sides[0]}) == len(sides[0])


def _model_of_earlier(run: Path, found: Path) -> RunModel:
    """The model of a run without `model.json`, which earlier versions wrote: a flat ViT, each time.

    Its config is that of `init.json` or follows from the recipe; its arrays are kernels of linear layers and of
    convolutions, and others, which are as they are.
    """
    recipe = read_json(run / RECIPE)
    try:
        if recipe.get("init_from"):
            started = read_json(run / INIT)
            config, name = configs.from_dict(started["config"]), str(started["name"])
        else:
            config, name = _config_of(recipe, found), str(recipe["model"])
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        what = "no model.json beside it, and not the recipe of a run of an earlier version"
        raise CheckpointError(f"{run / RECIPE}: {what}: {error}") from None
    shapes = parameter_shapes(config) if writer_of(found) == "flax" else {}
    return RunModel(config=config, name=name, layouts={name: _layout(name, shape) for name, shape in shapes.items()})


def _config_of(recipe: Mapping[str, Any], found: Path) -> Config:
    """What `Recipe.config` says, with the number of classes that the head has."""
    rates = {name: recipe[name] for name in ("drop_rate", "attn_drop_rate", "drop_path_rate") if name in recipe}
    size = {} if recipe.get("image_size") is None else {"image_size": recipe["image_size"]}
    said = rates | size | dict(recipe["overrides"])
    changes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    head = arrays_of(found, "params").shapes().get("head.weight")
    if head is not None:
        changes = {"num_classes": head[0 if writer_of(found) == "torch" else -1]} | changes
    if changes.get("in_chans") == 1:
        changes = {"preprocessing": configs.get(recipe["model"]).preprocessing.grey()} | changes
    return configs.get(recipe["model"], **changes)


def _layout(name: str, shape: Shape) -> str:
    """The layout in Flax of a flat ViT's array with some canonical name and shape."""
    if name.endswith(".weight") and len(shape) in _KERNELS:
        return _KERNELS[len(shape)]
    axes = " ".join(f"a{axis}" for axis in range(len(shape)))
    return f"{axes} -> {axes}"
