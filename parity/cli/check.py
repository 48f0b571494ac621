"""`vit-parity check`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from .common import Dtype, print_rich, use_present_platform


def check(
    target: Positional[str],
    *,
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16"),
    depth: int | None = None,
    batch_size: int = 2,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Prove that the Flax and the PyTorch model are the same function; exits with 1 if they are not.

    A name is checked with every parameter random, a checkpoint with its own.

    Args:
        target: A registered name, or the path of a checkpoint.
        dtypes: Precisions to compare in.
        depth: Fewer blocks, for a model that is too large for this machine.
        batch_size: Images in the batch.
        seed: Of the random parameters and images.
        json: Also write the figures to this file.
    """
    use_present_platform(default="cpu")
    from ..checks import check_forward

    report = check_forward(target, dtypes=dtypes, depth=depth, batch_size=batch_size, seed=seed)
    print_rich(report)
    if json is not None:
        json.write_text(report.to_json())
    return 0 if report.passed else 1
