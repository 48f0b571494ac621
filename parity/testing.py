"""For the tests of your own models: `assert_same_model`.

Needs both frameworks, which it loads when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

LEVELS = ("forward", "layers")


def assert_same_model(
    a: Any,
    b: Any,
    images: np.ndarray | None = None,
    *,
    dtype: str = "float64",
    tolerance: float | None = None,
    level: Literal["forward", "layers"] = "forward",
    image_size: int | tuple[int, int] | None = None,
) -> None:
    """Raises AssertionError with a diagnosis where two models aren't the same function.

    Args:
        a: A Flax NNX or PyTorch model of any kind, a function of images, or what `vit-parity diff` takes: a registered
            name, a checkpoint's path, `module:attribute`.
        b: The other one, likewise.
        images: (b, h, w, c) as the models expect them; PyTorch models get (b, c, h, w). Random ones by default.
        dtype: `float64`, `float32` or `bfloat16`; float32 where one of them can't run in float64.
        tolerance: Largest relative L2 distance that passes; by default that of this project for the precision, 1e-12
            in float64.
        level: `forward` compares the outputs alone; `layers` every intermediate that belongs to one of the other side.
        image_size: The size of the random images.

    Raises:
        AssertionError: The first place where the two part, and the cause where one is found.
        ValueError: An unknown level, or what is given is no model.
    """
    if level not in LEVELS:
        raise ValueError(f"level: got {level!r}, expected one of {', '.join(LEVELS)}")
    from .diagnosis import diff

    options: dict[str, Any] = dict(dtype=dtype, tolerance=tolerance, image_size=image_size)
    report = diff(a, b, images, **options, diagnose=False)
    output = report.output
    outputs_agree = output is not None and output.relative_l2 <= report.tolerance
    if report.passed or (level == "forward" and outputs_agree):
        return
    report = diff(a, b, images, **options)
    raise AssertionError("not the same model\n" + report.text())
