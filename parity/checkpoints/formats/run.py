"""The directory of one of our own training runs, opened as a checkpoint.

What Flax trained is read through JAX and Orbax; what PyTorch trained needs neither framework.
"""

from __future__ import annotations

from pathlib import Path

from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.tensors import open_tensors


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run: a recipe, and checkpoints of training."""
    return (path / "recipe.json").is_file() and (path / "checkpoints").is_dir()


def read(path: str | Path, *, step: int | None = None, ema: bool = False) -> Checkpoint:
    """Opens a run; no tensor is read yet.

    Args:
        path: Of the run.
        step: Of which checkpoint; the latest by default.
        ema: Whether to read the averaged parameters.

    Raises:
        CheckpointError: No run, no such step, no averaged parameters, or JAX and Orbax aren't installed and wrote it.
    """
    from ...runs import directory
    from ...runs.origin import model_of

    path = Path(path)
    recipe, checkpoint = directory.read_recipe(path), directory.checkpoint(path, step)
    if directory.writer_of(checkpoint) == "torch":
        tensors = open_tensors(checkpoint / directory.TORCH_STATE).under("ema." if ema else "params.")
        head = tensors.shapes().get("head.weight")
        source = {"format": "pytorch", "path": str(path), "step": int(checkpoint.name), "ema": ema}
        config, name = model_of(path, recipe, num_classes=head[0] if head else None)
        return Checkpoint(path, config, name, source, tensors)
    try:
        from vit_jax.run_checkpoints import read_run
    except ImportError as error:
        raise CheckpointError(
            f"{path}: the run's Orbax checkpoints need {error.name}, which isn't installed: pip install "
            "'vit-parity[jax]', or use the run's native checkpoint in model/"
        ) from None
    return read_run(path, step=step, ema=ema)
