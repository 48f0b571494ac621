"""Where a run starts: at values of the seed, at a checkpoint of anybody's, or where another of our runs ended.

`begin` decides which, and makes the model's config from it. The first state itself is made by `vit_jax/start.py` and
`vit_torch/start.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import Checkpoint, account, adapt, expect_floats, open_checkpoint, parameter_shapes
from ..checkpoints.adapt import is_head
from ..checkpoints.containers.overlay import Overlay
from ..checkpoints.containers.tensors import dtypes_of, shapes_of
from ..checkpoints.formats.run import checkpoint as checkpoint_of
from ..checkpoints.formats.run import is_run, read, steps
from ..configs import Config, to_dict
from ..configs.registry import jsonable
from ..data import Source
from ..recipes import Recipe, differences
from ..recipes.recipe import MODEL
from .directory import read_recipe
from .frozen import config_digest
from .metrics import read_metrics
from .origin import Origin, read_origin

_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts, and what its model is.

    Attributes:
        recipe: The recipe of the run.
        config: The config of the model, with the classes of the data.
        name: The registered name that it began as; empty if none.
        origin: What the run's directory keeps of the source; None if the values are those of the seed.
        tensors: The first values by canonical name; None if they are those of the seed, or of a run's checkpoint.
        class_names: The names of the data's classes, by label.
        goes_on_from: The run whose state is taken over with optimiser, step and position in the data, if one is.
    """

    recipe: Recipe
    config: Config
    name: str
    origin: Origin | None = None
    tensors: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    class_names: tuple[str, ...] = ()
    goes_on_from: Path | None = None

    def source(self) -> dict[str, Any]:
        """What a native checkpoint of the run says of it."""
        started = {} if self.origin is None else {"started_from": dict(self.origin.record)}
        return {"labels": list(self.class_names)} | started

    def metrics(self) -> list[dict[str, float]]:
        """The lines of the run that goes on."""
        return [] if self.goes_on_from is None else read_metrics(self.goes_on_from)

    def lines(self) -> list[str]:
        """What to tell of the start; empty if the values are those of the seed."""
        if self.origin is None:
            return []
        record = self.origin.record
        source = record["path"] if record["step"] is None else f"{record['path']} after step {record['step']}"
        if self.goes_on_from is not None:
            parts = ["parameters", "optimiser", *(["average"] if self.recipe.ema_decay is not None else [])]
            return [f"goes on with {source}, to step {self.recipe.steps}: {', '.join(parts)}, position in the data"]
        if self.tensors is None:
            return [f"a run that started from {source}"]
        taken = "the parameters alone of " if record["step"] is not None else ""
        told = [f"starts from {taken}{source}: {record['tensors']} tensors of {record['format']}"]
        if record["differs"]:
            told.append(f"optimiser and step are new, for this isn't the same run: {'; '.join(record['differs'])}")
        head = f"new, for {self.config.num_classes} classes" if record["new"] else "that of the checkpoint"
        told.append(f"head: {head}")
        for what in ("resized", "not_used"):
            if record[what]:
                told.append(f"{what.replace('_', ' ')}: {_listed(list(record[what]))}")
        return [*told, *(f"assumed: {each['field']} {each['value']}: {each['why']}" for each in record["assumed"])]


def begin(recipe: Recipe, data: Source, directory: Path | None = None, *, is_first: bool = True) -> Start:
    """Where a run starts; no tensor is read yet.

    Args:
        recipe: The recipe of the run.
        data: The data that it trains on.
        directory: The directory of the run. One with checkpoints says what the model is; nothing else is opened.
        is_first: Whether this is the first process, the only one that reads files as a whole, for their digests.

    Raises:
        ValueError: The data doesn't fit the model, the recipe's changes don't fit the checkpoint, or a run would go on
            with no steps left.
        CheckpointError: The checkpoint can't be opened, or its tensors aren't those of its config.
    """
    if not recipe.init_from:
        start = Start(recipe=recipe, config=recipe.config(data.num_classes), name=recipe.model)
    elif directory is not None and steps(directory):
        origin = read_origin(directory, recipe)
        assert origin is not None  # the recipe has an init_from
        start = Start(recipe=recipe, config=origin.config, name=origin.name, origin=origin)
    else:
        start = _from_checkpoint(recipe, data, is_first=is_first)
    if start.config.takes_classes and start.config.num_classes != data.num_classes:
        started = f"the run that started from {recipe.init_from}"
        model = started if recipe.init_from else f"{recipe.model} with the recipe's overrides"
        raise ValueError(f"num_classes: {data.name} has {data.num_classes}, and {model} {start.config.num_classes}")
    return dataclasses.replace(start, class_names=data.class_names)


def _from_checkpoint(recipe: Recipe, data: Source, *, is_first: bool) -> Start:
    path = Path(recipe.init_from)
    options = ({"model": recipe.model} if recipe.model else {}) | dict(recipe.init_options)
    checkpoint = open_checkpoint(recipe.init_from, target_size=recipe.changes().get("image_size"), **options)
    account(parameter_shapes(checkpoint.config), shapes_of(checkpoint.tensors), source=recipe.init_from)
    expect_floats(dtypes_of(checkpoint.tensors), source=recipe.init_from)
    data.check_labels(checkpoint.source.get("labels") or (), recipe.init_from)
    config, tensors = _adapted(recipe, checkpoint, data)
    differs = _differences(recipe, config, path) if is_run(path) else None
    step = None if differs is None else int(checkpoint_of(path).name)
    goes_on = differs == []
    if step is not None and goes_on and recipe.steps <= step:
        alone = f", or its parameters alone: --init-from {path / 'model'}" if (path / "model").is_dir() else ""
        raise ValueError(f"steps: got {recipe.steps}, and {path} has made {step}; expected more{alone}")
    record = {
        "path": recipe.init_from if ":" in recipe.init_from else str(path.absolute()),
        "options": jsonable(options),
        "format": _format(checkpoint, step),
        "files": _files(checkpoint.path, step) if is_first else {},
        "config_sha256": config_digest(checkpoint.config),
        "step": step,
        "goes_on": goes_on,
        "differs": differs or [],
        "tensors": len(tensors),
        **_changes(checkpoint, tensors),
        "not_used": dict(checkpoint.source.get("ignored", {})),
        "assumed": [assumption.to_json() for assumption in checkpoint.assumed],
    }
    origin = Origin(config=config, name=checkpoint.name, record=record)
    if goes_on:
        return Start(recipe=recipe, config=config, name=checkpoint.name, origin=origin, goes_on_from=path)
    return Start(recipe=recipe, config=config, name=checkpoint.name, origin=origin, tensors=tensors)


def _adapted(recipe: Recipe, checkpoint: Checkpoint, data: Source) -> tuple[Config, Mapping[str, np.ndarray]]:
    """Config and tensors with the recipe's sizes and dropout and the classes of the data."""
    changes = recipe.changes()
    if changes.get("global_pool", getattr(checkpoint.config, "global_pool", "")) == "none":
        raise ValueError(
            f"{recipe.init_from}: global_pool: got 'none', which no head goes with; expected avg or token, said with "
            "--set global_pool=avg (in Python init_options={'global_pool': 'avg'})"
        )
    try:
        dtype = np.dtype(np.float64 if recipe.precision == "float64" else np.float32)
        num_classes = data.num_classes if checkpoint.config.takes_classes else None
        config, tensors = adapt(checkpoint, num_classes=num_classes, seed=recipe.seed, dtype=dtype, **changes)
        return config.with_rates(**recipe.drop_rates()), tensors
    except ValueError as error:
        raise ValueError(f"{recipe.init_from}: {error}") from None


def _differences(recipe: Recipe, config: Config, run: Path) -> list[str]:
    """What makes this another run than that one with more steps: the training, and the model as it comes out."""
    theirs = read_recipe(run)
    one, other = to_dict(read(run).config), to_dict(config)
    fields = [f"{name}: {one[name]} there, {other[name]} here" for name in other if one[name] != other[name]]
    different = differences(theirs, recipe, apart_from=(*MODEL, "steps"))
    told = [line.partition(":")[0] for line in different]
    options = ["init_options: given here"] if recipe.init_options else []
    return different + [line for line in fields if line.partition(":")[0] not in told] + options


def _changes(checkpoint: Checkpoint, tensors: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Names of the tensors that aren't the checkpoint's own: new heads, and what was resized."""
    changed = tensors.changed if isinstance(tensors, Overlay) and tensors is not checkpoint.tensors else ()
    new = sorted(name for name in changed if is_head(checkpoint.config, name))
    return {"new": new, "resized": sorted(name for name in changed if name not in new)}


def _format(checkpoint: Checkpoint, step: int | None) -> str:
    if step is not None:
        return "a run"
    return str(checkpoint.source.get("format", "native"))


def _files(path: Path, step: int | None) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file of a checkpoint: a file, those of a directory, or those of a run's step."""
    if step is not None:
        path = checkpoint_of(path, step)
    found = path.rglob("*") if step is not None else [path] if path.is_file() else path.iterdir()
    return {
        str(file.relative_to(path) if file != path else file.name): _digest(file)
        for file in sorted(found)
        if file.is_file() and not file.name.startswith(".")
    }


def _digest(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
