"""The directory of a run, for who writes to it: whose it is, and what it begins with.

What the files are, and how they are read, is in `parity/checkpoints/formats/run.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from .. import outputs
from ..checkpoints import CheckpointError
from ..checkpoints.containers.document import read_json
from ..checkpoints.formats.run import MODEL, NAMES, RECIPE, Framework, RunModel, framework_of, steps
from ..configs import Config
from ..recipes import Recipe, differences, from_dict, to_dict
from .origin import Origin

# How many checkpoints of training are kept.
KEPT = 2


def check(path: Path, recipe: Recipe, *, resume: bool, framework: Framework) -> None:
    """Checks that a directory is free or holds the same run.

    Args:
        path: The directory, which needn't be there.
        recipe: The recipe of the run.
        resume: Whether a run that is there may go on.
        framework: The framework that wants to train.

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


def claim(
    path: Path,
    recipe: Recipe,
    config: Config,
    *,
    origin: Origin | None = None,
    layouts: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Makes the directory and writes the recipe, the model and what the run starts from, each whole or not at all.

    One process does it. The model of a run that has checkpoints stays as it is written, for it describes these.

    Args:
        path: The directory.
        recipe: The recipe of the run.
        config: The model's config, with the classes of the data.
        origin: What the run starts from, if not from values of the seed.
        layouts: Gives the layout of each array that the run will keep, as `RunModel` has them.
    """
    path.mkdir(parents=True, exist_ok=True)
    outputs.write_text(path / RECIPE, json.dumps(to_dict(recipe), indent=2) + "\n")
    is_new = not steps(path)
    if is_new or not (path / MODEL).is_file():
        name = recipe.model if origin is None else origin.name
        RunModel(config=config, name=name, layouts=layouts()).write(path)
    if is_new and origin is not None:
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
