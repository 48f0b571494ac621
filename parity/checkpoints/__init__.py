"""Checkpoints without a framework: the native format, foreign formats, and the accounting of tensors."""

from .accounting import CheckpointError, account
from .adapt import adapt
from .formats import FORMATS, convert, open_checkpoint
from .native import Checkpoint, read, write
from .shapes import parameter_count, parameter_shapes
from .tensors import LazyTensors, shapes_of, write_tensors

__all__ = [
    "FORMATS",
    "Checkpoint",
    "CheckpointError",
    "LazyTensors",
    "account",
    "adapt",
    "convert",
    "open_checkpoint",
    "parameter_count",
    "parameter_shapes",
    "read",
    "shapes_of",
    "write",
    "write_tensors",
]
