"""Checkpoints without a framework: the native format, foreign formats, and the accounting of tensors."""

from .accounting import CheckpointError, account
from .adapt import adapt
from .native import Checkpoint, is_native, read, write
from .tensors import LazyTensors, shapes_of, write_tensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "LazyTensors",
    "account",
    "adapt",
    "is_native",
    "read",
    "shapes_of",
    "write",
    "write_tensors",
]
