"""Training runs on disk; loads no framework. `parity.bridge` moves them from one framework to the other."""

from ..checkpoints.formats.run import Framework, framework_of
from .directory import read_recipe
from .training_state import TrainingState

__all__ = ["Framework", "TrainingState", "framework_of", "read_recipe"]
