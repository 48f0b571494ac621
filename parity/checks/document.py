"""The report of a check for people: Markdown, one HTML file, pictures, and JSON beside them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from .. import outputs
from ..html_report import Report
from .report import CheckReport, figure, to_json

_MEANING = {
    "forward": "What is embedded, the output of every block, features and logits.",
    "layers": "What every submodule takes and returns, in the order of the forward pass; `:input` is what a module "
    "takes where no other module returned it.",
    "gradients": "Gradients of all parameters and of the images, in the order of the backward pass, of the features "
    "and logits times fixed random numbers. A bias is relative to at least the scale of its weight's gradient. With "
    "BatchNorm all of it once more in training mode, by the batch's statistics, and the running ones afterwards.",
    "training": "Losses and gradient norms of every step; parameters, the optimiser's moments, the averaged "
    "parameters and the statistics of BatchNorm after the last one.",
    "precision": "Each framework's gradients of a training step on real images, and their norms, against its own in "
    "float64 from the same parameters, in the order of the backward pass; and an average of parameters over 1,000 "
    "updates.",
}
# Compared at each step: a curve says more than a table.
_CURVES = ("loss", "grad_norm")
_PACKAGES = ("jax", "flax", "torch", "numpy")


def write_document(reports: Sequence[CheckReport], directory: str | Path) -> Path:
    """Writes `report.html` (self-contained), `report.md`, its pictures and `report.json`; returns the HTML file.

    Args:
        reports: Levels of one model.
        directory: Made if it isn't there.
    """
    directory = Path(directory)
    document = Report(f"Parity of {reports[0].name}")
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in _PACKAGES)
    document.text(f"Flax and PyTorch from the same parameters; Python {platform.python_version()}, {versions}.")
    write_summary(document, reports)
    for report in reports:
        _write_level(document, report)
    path = document.write(directory)
    outputs.write_text(directory / "report.json", to_json(reports))
    return path


def write_summary(document: Report, reports: Sequence[CheckReport]) -> None:
    """A table of the worst place of each part, level and precision."""
    rows = [
        (
            report.level,
            precision.dtype,
            part.name,
            part.worst.name,
            figure(part.worst),
            f"{part.tolerance:.0e}",
            "yes" if part.passed else "**no**",
        )
        for report in reports
        for precision in report.precisions
        for part in precision.parts
    ]
    document.table(("level", "precision", "compared", "worst place", "relative L2", "tolerance", "passed"), rows)


def write_part(document: Report, report: CheckReport, part: str) -> None:
    """A picture and a table of one part of a level."""
    from . import figures

    name = f"{report.level}_{part}"
    document.figure(name, figures.by_place(report, part), f"{part}: relative difference by place and precision")
    header = ("place", *report.columns(part))
    document.table(header, [(place, *map(figure, cells)) for place, cells in report.rows(part).items()])


def _write_level(document: Report, report: CheckReport) -> None:
    from . import figures

    config = report.config
    settings = "".join(f", {name} {value}" for name, value in report.settings.items())
    document.heading(f"{report.level.capitalize()}: {'passed' if report.passed else 'FAILED'}")
    document.text(_MEANING[report.level])
    document.text(
        f"{config.depth} blocks, images of {config.image_size[0]} x {config.image_size[1]}, batch of "
        f"{report.batch_size}, seed {report.seed}{settings}."
    )
    document.text("\n".join(f"- {failure}" for failure in report.failures))
    for part in report.part_names:
        if part in _CURVES:
            picture = figures.curves(report, part)
            document.figure(f"{report.level}_{part}", picture, f"{part} at each step, and the relative difference")
        else:
            document.text(f"**{part}**")
            write_part(document, report, part)
    caption = "elements by the size of their difference"
    document.figure(f"{report.level}_histogram", figures.histogram(report), caption)
