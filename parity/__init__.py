"""What both frameworks share: configs, checkpoints, data, recipes and comparison. Loads neither jax nor torch."""

from . import configs

__all__ = ["configs"]
