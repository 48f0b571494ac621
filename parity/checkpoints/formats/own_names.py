"""A file of tensors alone, under our own names, of a named model: of families that no foreign format has."""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..accounting import account
from ..assumed import Given, with_fields
from ..checkpoint import Checkpoint
from ..containers.stored import FileTensors
from ..shapes import parameter_shapes
from .opened import Opened


def read(opened: Opened, given: Given) -> Checkpoint:
    """The checkpoint of a file whose names, but for a prefix, are the canonical ones of the named model.

    Args:
        opened: The path, and what the user said of its names.
        given: The named model, and fields that differ from its own.

    Raises:
        CheckpointError: Missing, unexpected or misshapen tensors.
    """
    assert given.model is not None  # this is what a named model of another family is read by
    config = with_fields(given.model, {field: given.take(field) for field in given.fields})
    found, prefix = opened.tensors(), opened.prefix or ""
    names = {name.removeprefix(prefix): name for name in found if name.startswith(prefix)}
    ignored = {name: "left out" for name in found if any(fnmatchcase(name, pattern) for pattern in opened.ignore)}
    arrays = {ours: found.arrays[name] for ours, name in names.items() if name not in ignored}
    shapes = {name: array.shape for name, array in arrays.items()}
    account(parameter_shapes(config), shapes, source=str(opened.path), called=lambda name: prefix + name)
    source = {"format": "canonical names", "path": str(opened.path)} | ({"ignored": ignored} if ignored else {})
    return Checkpoint(opened.path, config, given.name, source, FileTensors(found.path, arrays), tuple(given.assumed))
