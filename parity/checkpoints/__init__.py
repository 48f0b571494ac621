"""Checkpoints without a framework: the native format, foreign formats, and the accounting of tensors."""

from .accounting import CheckpointError, account, expect_floats
from .adapt import adapt
from .formats import FORMATS, convert, open_checkpoint
from .native import Checkpoint, read, write
from .shapes import parameter_count, parameter_shapes
from .tensors import Tensors, dtypes_of, open_tensors, shapes_of, slice_of, write_tensors

__all__ = [
    "FORMATS",
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
    "parameter_count",
    "parameter_shapes",
    "read",
    "shapes_of",
    "slice_of",
    "write",
    "write_tensors",
]
