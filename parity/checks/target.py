"""What a check is about: a config, its tensors, and what its model is called with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict

from .. import checkpoints, configs
from ..checkpoints import Checkpoint
from ..checkpoints.formats import hub
from ..compare import not_identical
from ..configs import Config
from .parameters import Inputs, as_inputs, random_inputs, random_parameters
from .twins import DTYPES, Tensors, exact_jax

ImageSize = int | tuple[int, int] | None
# Images instead of random ones, or every input by name.
Given = np.ndarray | Mapping[str, np.ndarray] | None
Work = Literal["forward", "backward", "training"]
# How often the tensors exist in float64: source, cast and one model; both sides' gradients; both sides' parameters, two
# moments and their average.
_COPIES = {"forward": 3, "backward": 5, "training": 12}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is checked.

    Attributes:
        name: The name of the model, or its path.
        config: The config with the depth and the image size that were asked for.
        tensors: The tensors by canonical name, in float64 or as the checkpoint has them; none where either side of a
            training draws its own.
        inputs: The inputs by name: normalised images (b, h, w, c), token ids (b, t).
        faults: Tensors that a framework's `load` gives another value than the file has.
    """

    name: str
    config: Config
    tensors: Tensors
    inputs: Inputs
    faults: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """The number of examples."""
        return len(next(iter(self.inputs.values())))

    def cast(self, dtypes: Iterable[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Each precision with the tensors in it."""
        for dtype in dtypes:
            yield dtype, {name: np.asarray(value).astype(DTYPES[dtype]) for name, value in self.tensors.items()}


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Raises ValueError for an unknown precision."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"dtypes: got {dtype!r}, expected of {', '.join(DTYPES)}")


def open_target(
    model: str | Path | Config | Checkpoint,
    *,
    depth: int | None = None,
    image_size: ImageSize = None,
    batch_size: int = 2,
    seed: int = 0,
    images: Given = None,
    num_classes: int | None = None,
    work: Work = "forward",
) -> Target:
    """A registered model, a config, or a checkpoint or its path, as it is to be checked.

    Args:
        model: Name, config, path or an opened checkpoint; names and configs get random values in every tensor, or, to
            be trained, none.
        depth: Only this many blocks, the first ones; None for all.
        image_size: Another input size; the position embedding of a checkpoint is resized.
        batch_size: Number of random images.
        seed: The seed of random images and parameters.
        images: Normalised images (b, h, w, c), instead of random ones; by name for a model of more inputs.
        num_classes: Another number of classes; a checkpoint gets a new head. None, and for a family without such heads
            any, stands for its own.
        work: What there must be memory for.

    Raises:
        ValueError: An unknown name, or a model that wouldn't fit in memory.
        CheckpointError: Not a readable checkpoint.
    """
    given = next(iter(images.values())) if isinstance(images, Mapping) else images
    count = batch_size if given is None else len(given)
    if isinstance(model, str) and model not in configs.names() and _is_checkpoint(model):
        model = Path(model)
    if isinstance(model, Path | Checkpoint):
        opened = checkpoints.open_checkpoint(model, target_size=image_size) if isinstance(model, Path) else model
        changes = {"image_size": image_size} | _classes(opened.config, num_classes)
        name, config, tensors, faults = _checkpoint(opened, depth, changes)
        _check_fits(name, config, count, work)
    else:
        name = model if isinstance(model, str) else configs.name_of(model) or "a config"
        config = configs.get(model) if isinstance(model, str) else model
        config = config if depth is None else config.shortened(depth)
        config = config if image_size is None else configs.replace(config, image_size=image_size)
        config = configs.replace(config, **_classes(config, num_classes))
        # Before its values are drawn.
        _check_fits(name, config, count, work)
        tensors, faults = {}, []
        if work != "training":
            tensors = random_parameters(checkpoints.parameter_shapes(config), seed)
    inputs = random_inputs(config, batch_size, seed) if images is None else as_inputs(config, images)
    return Target(name=name, config=config, tensors=tensors, inputs=inputs, faults=tuple(faults))


def _classes(config: Config, num_classes: int | None) -> dict[str, Any]:
    """The change of a model's head, if it has one."""
    return {} if num_classes is None or not config.takes_classes else {"num_classes": num_classes}


def _check_fits(name: str, config: Config, batch_size: int, work: Work) -> None:
    if not fits(config, batch_size, work=work):
        needed = required_bytes(config, batch_size, work=work) / 2**30
        raise ValueError(f"{name}: needs about {needed:.1f} GiB of memory; reduce depth, image_size or batch_size")


def required_bytes(config: Config, batch_size: int = 2, *, work: Work = "forward") -> int:
    """Estimate of the memory that a float64 check takes at its peak.

    Besides the tensors there are one framework's activations at a time: those of one block, or of all where there is a
    backward pass.
    """
    activations = config.activations(backward=work != "forward")
    return 8 * (_COPIES[work] * checkpoints.parameter_count(config) + batch_size * activations)


def fits(config: Config, batch_size: int = 2, memory: int | None = None, *, work: Work = "forward") -> bool:
    """Whether a float64 check takes less than `memory` bytes; by default two thirds of the machine's."""
    if memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 2 // 3
    return required_bytes(config, batch_size, work=work) <= memory


def _is_checkpoint(model: str) -> bool:
    return model.startswith(hub.PREFIX) or Path(model).exists()


def _checkpoint(
    opened: Checkpoint, depth: int | None, changes: dict[str, Any]
) -> tuple[str, Config, Tensors, list[str]]:
    config, tensors = checkpoints.adapt(opened, **changes)
    faults = _loading_faults(opened, changes, tensors)
    if depth is not None:
        config = config.shortened(depth)
        shapes = checkpoints.parameter_shapes(config)
        tensors = {name: np.asarray(tensors[name])[tuple(map(slice, shape))] for name, shape in shapes.items()}
    return str(opened.path), config, tensors, faults


def _loading_faults(opened: Checkpoint, changes: dict[str, Any], tensors: Tensors) -> list[str]:
    """Tensors that either framework's `load` gives another value than the file has."""
    with exact_jax(np.float64):
        left = vit_jax.state_dict.state_dict(vit_jax.load(opened, **changes))
    faults = [f"vit_jax.load: {name}" for name in not_identical(left, tensors)]
    del left
    right = vit_torch.state_dict.state_dict(vit_torch.load(opened, **changes))
    return faults + [f"vit_torch.load: {name}" for name in not_identical(right, tensors)]
