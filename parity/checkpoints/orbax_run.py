"""The directory of one of our own training runs, opened as a checkpoint."""

from __future__ import annotations

from pathlib import Path

from .accounting import CheckpointError
from .native import Checkpoint


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run: a recipe, and Orbax checkpoints."""
    return (path / "recipe.json").is_file() and (path / "checkpoints").is_dir()


def read(path: str | Path, *, step: int | None = None, ema: bool = False) -> Checkpoint:
    """Opens a run; no tensor is read yet. Needs JAX and Orbax, which wrote it.

    Args:
        path: Of the run.
        step: Of which checkpoint; the latest by default.
        ema: Whether to read the averaged parameters.

    Raises:
        CheckpointError: No run, no such step, or JAX and Orbax aren't installed.
    """
    try:
        from vit_jax.run_directory import read_run
    except ImportError as error:
        raise CheckpointError(
            f"{path}: the run's Orbax checkpoints need {error.name}, which isn't installed: pip install "
            "'vit-parity[jax]', or use the run's native checkpoint in model/"
        ) from None
    return read_run(path, step=step, ema=ema)
