"""Checkpoints without a framework: the native format, foreign formats, and the accounting of tensors."""

from .accounting import CheckpointError, account, expect_floats
from .adapt import adapt
from .assumed import AssumedWarning, Assumption, warn_of
from .checkpoint import Checkpoint
from .containers.tensors import Tensors, dtypes_of, open_tensors, shapes_of, slice_of, write_tensors
from .formats.native import read, write
from .formats.registry import FORMATS, SOURCES, convert, open_checkpoint, open_to_load
from .shapes import parameter_count, parameter_shapes

__all__ = [
    "FORMATS",
    "SOURCES",
    "AssumedWarning",
    "Assumption",
    "Checkpoint",
    "CheckpointError",
    "Tensors",
    "account",
    "adapt",
    "convert",
    "dtypes_of",
    "expect_floats",
    "open_checkpoint",
    "open_tensors",
    "open_to_load",
    "parameter_count",
    "parameter_shapes",
    "read",
    "shapes_of",
    "slice_of",
    "warn_of",
    "write",
    "write_tensors",
]
