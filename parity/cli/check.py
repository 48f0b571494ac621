"""`vit-parity check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional, UseAppendAction

from .. import outputs
from ..html_report import check_place
from .common import Dtype, Size, print_rich, use_present_platform
from .said import Said, SaidOf

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..checks import CheckReport
    from ..configs import Config

Level = Literal["forward", "layers", "gradients", "training", "precision"]


def check(
    target: Positional[str],
    *,
    said: SaidOf = Said(),
    level: UseAppendAction[tuple[Level, ...]] = (),
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16"),
    depth: int | None = None,
    image_size: Size | None = None,
    batch_size: int | None = None,
    steps: int = 100,
    stochastic: bool = False,
    seed: int = 0,
    json: Path | None = None,
    report: Path | None = None,
) -> int:
    """Prove that the Flax and the PyTorch model are the same function; exits with 1 if they are not.

    A name is checked with every parameter random, a checkpoint with its own. Five levels: `forward` compares logits,
    features and the output of every block; `layers` what every submodule takes and returns; `gradients` the gradient of
    every parameter and of the images, with BatchNorm also as it is trained, and the statistics it leaves; `training`
    the losses of every step, and at the end the whole state, after training both on scikit-learn's digits, from the
    checkpoint or from scratch; `precision` each framework's own gradients in float32 and bfloat16 with those in
    float64.

    Args:
        target: A registered name, or the path of a checkpoint.
        said: What a checkpoint doesn't say of itself.
        level: One of the five levels; give it again for more. `forward` if it isn't given.
        dtypes: Precisions to compare in.
        depth: Fewer blocks, for a model that is too large for this machine.
        image_size: Another height and width of the images, or one number for both.
        batch_size: Images in the batch; 16 in training, 128 for `precision`, otherwise 2.
        steps: Optimiser steps of `training`; the tolerances are those of 100.
        stochastic: Whether `gradients` are taken with dropout and stochastic depth, of the same masks on both sides.
        seed: The seed of the random parameters, images, batches and masks.
        json: Also write the figures to this file.
        report: Also write `report.html`, `report.md`, their pictures and `report.json` to this directory.
    """
    outputs.check_file(json)
    if report is not None:
        check_place(report)
    use_present_platform(default="cpu")
    from .. import checks

    model = said.target(target, target_size=image_size)
    given: dict[str, Any] = {"dtypes": dtypes, "depth": depth, "image_size": image_size, "seed": seed}
    given |= {} if batch_size is None else {"batch_size": batch_size}
    run = _levels(model, given, stochastic=stochastic, steps=steps)
    found = []
    for name in dict.fromkeys(level or ("forward",)):
        found.append(run[name]())
        print_rich(found[-1])
    if json is not None:
        outputs.write_text(json, checks.to_json(found))
    if report is not None:
        print_rich(f"report in {checks.write_document(found, report)}")
    return 0 if all(one.passed for one in found) else 1


def _levels(
    model: str | Config | Checkpoint, given: dict[str, Any], *, stochastic: bool, steps: int
) -> dict[str, Callable[[], CheckReport]]:
    """The check of each level."""
    from .. import checks

    return {
        "forward": lambda: checks.check_forward(model, **given),
        "layers": lambda: checks.check_layers(model, **given),
        "gradients": lambda: checks.check_gradients(model, stochastic=stochastic, **given),
        "training": lambda: _training(model, steps, given),
        "precision": lambda: checks.check_precision(model, **given),
    }


def _training(target: str | Config | Checkpoint, steps: int, given: dict[str, Any]) -> CheckReport:
    """The training level with a progress bar on a terminal."""
    from ..checks import check_training

    with _progress(len(given["dtypes"]) * steps) as on_step:
        return check_training(target, steps=steps, on_step=on_step, **given)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int, float, float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("training", total=total)

        def on_step(dtype: str, step: int, flax: float, torch: float) -> None:
            text = f"{dtype}, step {step}: loss {flax:.4f}, apart by {abs(flax - torch):.1e}"
            progress.update(task, advance=1, description=text)

        yield on_step
