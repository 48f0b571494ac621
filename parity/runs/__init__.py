"""Training runs on disk, and moving them between the frameworks; loads neither."""

from .directory import Framework, framework_of, read_recipe
from .training_state import TrainingState, convert_training, read_training, write_training

__all__ = [
    "Framework",
    "TrainingState",
    "convert_training",
    "framework_of",
    "read_recipe",
    "read_training",
    "write_training",
]
