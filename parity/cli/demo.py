"""`vit-parity demo`."""

from __future__ import annotations

from pathlib import Path

from .common import use_cpu_devices


def demo(
    *,
    directory: Path = Path("vit-parity-demo"),
    devices: int = 8,
    seed: int = 0,
    steps: int = 1200,
    accuracy: float = 0.97,
) -> int:
    """Train in Flax, evaluate in PyTorch, prove that they are the same; writes a report.

    Prepares scikit-learn's digits, trains a small ViT on simulated devices with data and fsdp axes, saves the native
    checkpoint, evaluates the same file in both frameworks on the same test set, and measures the parity of every layer.
    Exits with 0 only if the accuracy is high enough and parity holds.

    Args:
        directory: Where the run, the checkpoint and the report go.
        devices: Simulated CPU devices that the training is spread over.
        seed: The seed of the initial values and of the order of the images.
        steps: The steps of the training: fewer are quicker, and less accurate.
        accuracy: The least accuracy on the test set that passes.
    """
    use_cpu_devices(devices)
    from ..demo import run

    return run(directory, accuracy=accuracy, seed=seed, steps=steps)
