"""The directory of a run: whose it is, which framework keeps its state there, and at which steps.

| file | of |
| --- | --- |
| `recipe.json` | both frameworks |
| `init.json` | both, if the run started from a checkpoint |
| `metrics.jsonl`, `tensorboard/` | both |
| `checkpoints/STEP/state/`, `checkpoints/STEP/data/` | Flax: Orbax |
| `checkpoints/STEP/state.pt`, `checkpoints/STEP/data.json` | PyTorch: `torch.save` |
| `model/`, `model_ema/` | both: native checkpoints, when the run is complete |

A checkpoint has its name only when it is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from .. import outputs
from ..checkpoints import CheckpointError
from ..checkpoints.containers.document import read_json
from ..recipes import Recipe, differences, from_dict, to_dict
from .origin import Origin

RECIPE = "recipe.json"
CHECKPOINTS = "checkpoints"
STATE = "state"
TORCH_STATE = "state.pt"
TORCH_DATA = "data.json"

Framework = Literal["flax", "torch"]
FRAMEWORKS: tuple[Framework, ...] = ("flax", "torch")
NAMES: dict[Framework, str] = {"flax": "Flax", "torch": "PyTorch"}
# Of training checkpoints that are kept.
KEPT = 2


def check(path: Path, recipe: Recipe, *, resume: bool, framework: Framework) -> None:
    """Checks that a directory is free or holds the same run.

    Args:
        path: Of the directory, which needn't be there.
        recipe: Of the run.
        resume: Whether a run that is there may go on.
        framework: That wants to train.

    Raises:
        ValueError: The run would start from the directory itself, or from one around it, and change it; or there is a
            run of another recipe (names the fields that differ) or of the other framework (names the command that
            converts it), a run at all without `resume`, or something that is no run.
    """
    if recipe.init_from and Path(recipe.init_from).resolve() in (path.resolve(), *path.resolve().parents):
        raise ValueError(
            f"init_from: got {recipe.init_from}, which a run in {path} would change; choose another directory"
        )
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / RECIPE).exists():
        raise ValueError(f"{path}: holds files but no run, expected an empty directory or a run to go on with")
    different = differences(read_recipe(path), recipe)
    if different:
        raise ValueError(
            f"{path}: holds a run of another recipe; choose another directory\n  " + "\n  ".join(different)
        )
    if not resume:
        raise ValueError(f"{path}: holds this run already; resume it, or choose another directory")
    found = framework_of(path)
    if found not in (framework, None):
        raise ValueError(
            f"{path}: holds checkpoints of {NAMES[found]}, expected {NAMES[framework]}; to go on with the run there: "
            f"vit-parity convert {path} NEW --to {framework}-training"
        )


def claim(path: Path, recipe: Recipe, origin: Origin | None = None) -> None:
    """Makes the directory and writes the recipe and what the run starts from, each whole or not at all.

    One process does it.
    """
    path.mkdir(parents=True, exist_ok=True)
    outputs.write_text(path / RECIPE, json.dumps(to_dict(recipe), indent=2) + "\n")
    if origin is not None and not steps(path):
        origin.write(path)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a run's directory.

    Raises:
        CheckpointError: There is none, or it is not a recipe; names the file.
    """
    file = Path(path) / RECIPE
    try:
        return from_dict(read_json(file))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: not the recipe of a run: {error}") from None


def steps(path: Path) -> list[int]:
    """Steps of the checkpoints that are there, ascending."""
    return sorted(int(child.name) for child in (path / CHECKPOINTS).glob("*") if child.name.isdecimal())


def checkpoint(path: Path, step: int | None = None) -> Path:
    """The directory of a checkpoint.

    Args:
        path: Of the run.
        step: After which it was taken; the latest by default.

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
    """Whose checkpoints a run has, or None if it has none yet.

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
