"""`vit-parity diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from .. import outputs
from .common import Dtype, Size, print_rich, use_present_platform
from .said import Said, SaidOf

ImageLayout = Literal["NHWC", "NCHW"] | None


def diff(
    left: Positional[str],
    right: Positional[str],
    *,
    said: SaidOf = Said(),
    said_left: Annotated[Said, tyro.conf.arg(name="left")] = Said(),
    said_right: Annotated[Said, tyro.conf.arg(name="right")] = Said(),
    dtype: Dtype = "float64",
    tolerance: float | None = None,
    image_size: Size | None = None,
    batch_size: int = 2,
    seed: int = 0,
    left_layout: ImageLayout = None,
    right_layout: ImageLayout = None,
    json: Path | None = None,
    markdown: Path | None = None,
) -> int:
    """Find the first place where two models part, and the likeliest cause by trying it; exits with 1 if they part.

    A model is a registered name, a checkpoint in any format (hf-hub:owner/name too), or anything else that takes
    images: package.module:attribute or file.py:attribute names a PyTorch or Flax NNX model, a function that makes one,
    or a function of images that returns outputs or (outputs, {name: intermediate}). A registered name has the
    parameters of the other side. In front of it, flax:, torch: or numpy: says what it runs in; without, models of ours
    run in Flax on the left and in PyTorch on the right. This runs the code that it is pointed at.

    Args:
        left: One model.
        right: The other.
        said: What the checkpoints don't say of themselves, on both sides.
        said_left: The same on the left alone.
        said_right: The same on the right alone.
        dtype: Precision to compare in; float32 where one of them can't run in float64.
        tolerance: Largest relative L2 that passes; by default that of the project for the precision.
        image_size: Another height and width, or one number for both.
        batch_size: Random images in the batch.
        seed: The seed of the random images.
        left_layout: The layout of a function's images on the left; NCHW in PyTorch and NHWC elsewhere by default.
        right_layout: The layout of a function's images on the right.
        json: Also write the figures to this file.
        markdown: Also write the report to this file.
    """
    outputs.check_file(json)
    outputs.check_file(markdown)
    use_present_platform(default="cpu")
    from ..diagnosis import diff

    options: dict[str, Any] = dict(image_size=image_size, batch_size=batch_size, seed=seed, dtype=dtype)
    report = diff(
        left,
        right,
        tolerance=tolerance,
        layouts=(left_layout, right_layout),
        **options,
        said=(said.keywords() | said_left.keywords(), said.keywords() | said_right.keywords()),
    )
    print_rich(report)
    for output, text in ((json, report.to_json), (markdown, report.markdown)):
        if output is not None:
            outputs.write_text(output, text())
    return 0 if report.passed else 1
