"""Pictures of what a check found, as matplotlib figures that need no display."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compare import DECADES
from .report import CheckReport

COLORS = {"float64": "#0969da", "float32": "#bc4c00", "bfloat16": "#8250df"}
# An exact zero has no place on a log axis.
_ZERO = 10.0 ** DECADES[0]
_LABELS = 40
_WIDTH = 8


def by_place(report: CheckReport, part: str) -> Figure:
    """Relative differences in the order of the places, a line for each precision, dotted where the tolerance is."""
    figure = Figure(figsize=(_WIDTH, 3.5))
    axes = figure.subplots()
    places = list(report.rows(part))
    for dtype, found in report.columns(part).items():
        at = {difference.name: difference.relative_l2 for difference in found.comparison.differences}
        values = [_positive(at.get(place, np.nan)) for place in places]
        marker = "o-" if len(places) <= _LABELS else "-"
        axes.plot(range(len(places)), values, marker, color=COLORS[dtype], label=dtype, markersize=4, linewidth=1)
        axes.axhline(found.tolerance, color=COLORS[dtype], linestyle=":", linewidth=1)
    every = -(-len(places) // _LABELS)
    axes.set_xticks(range(0, len(places), every), places[::every], rotation=90, fontsize=6 if every > 1 else 8)
    _log(axes, "relative L2")
    axes.legend(frameon=False)
    return figure


def histogram(report: CheckReport) -> Figure:
    """Elements by the size of their difference, each part and precision."""
    parts = [part for part in report.part_names if part not in ("loss", "grad_norm")]
    figure = Figure(figsize=(_WIDTH, 1 + 1.8 * len(parts)))
    grid = figure.subplots(len(parts), sharex=True, squeeze=False)
    for part, axes in zip(parts, grid[:, 0], strict=True):
        for dtype, found in report.columns(part).items():
            counts = np.asarray(found.histogram, float)
            share = 100 * counts / max(counts.sum(), 1)
            axes.stairs(share, [*DECADES, DECADES[-1] + 1], fill=True, alpha=0.5, color=COLORS[dtype], label=dtype)
        axes.set(ylabel="% of elements", title=part)
    grid[0, 0].legend(frameon=False)
    grid[-1, 0].set_xlabel("power of ten of the difference, relative to the root mean square; zeros at the left")
    figure.tight_layout()
    return figure


def curves(report: CheckReport, name: str) -> Figure:
    """A value of both frameworks at each step, and below it their relative difference in each precision."""
    figure = Figure(figsize=(_WIDTH, 6))
    above, below = figure.subplots(2, sharex=True)
    for precision in report.precisions:
        left, right = (np.asarray(curve) for curve in precision.curves[name])
        steps, color = np.arange(1, len(left) + 1), COLORS[precision.dtype]
        above.plot(steps, left, color=color, linewidth=2.5, alpha=0.4, label=f"Flax, {precision.dtype}")
        above.plot(steps, right, color=color, linewidth=1, linestyle="--", label=f"PyTorch, {precision.dtype}")
        scale = np.where(right == 0, 1, np.abs(right))
        below.plot(steps, [_positive(x) for x in np.abs(left - right) / scale], color=color, linewidth=1)
        limit = next((part.tolerance for part in precision.parts if part.name == name), None)
        if limit is not None:
            below.axhline(limit, color=color, linestyle=":", linewidth=1)
    above.set(ylabel=name)
    above.legend(frameon=False, fontsize=8)
    below.set(xlabel="step")
    _log(below, "relative difference")
    return figure


def _log(axes: Axes, label: str) -> None:
    axes.set(yscale="log", ylabel=label)
    axes.grid(axis="y", linewidth=0.3)


def _positive(value: float) -> float:
    return max(value, _ZERO) if np.isfinite(value) else np.nan
