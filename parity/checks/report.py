"""What a check found, and how it is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compare import DECADES, Comparison, Difference, compare, magnitudes
from ..configs import Config
from ..html_report import markdown_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from .target import Target

# Rows that a terminal is given of a long part: those beyond the tolerance, then the worst.
ROWS = 20
Curve = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of what is compared: outputs, gradients, a moment of the optimiser.

    Attributes:
        name: The name of the kind.
        comparison: Flax on the left, PyTorch on the right, or a framework and itself in float64; in the order in which
            errors spread.
        tolerance: Largest relative L2 that passes.
        histogram: Elements by the power of ten of their difference (`parity.compare.magnitudes`).
    """

    name: str
    comparison: Comparison
    tolerance: float
    histogram: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        left: Mapping[str, np.ndarray],
        right: Mapping[str, np.ndarray],
        tolerance: float,
        scales: Mapping[str, float] | None = None,
    ) -> Part:
        """Compares two trees; differences are relative to `right`, or to `scales` where they are more."""
        found = compare(left, right, scales)
        return cls(name=name, comparison=found, tolerance=tolerance, histogram=magnitudes(left, right))

    @property
    def first_beyond(self) -> Difference | None:
        """The first place beyond the tolerance; None if there is none."""
        return self.comparison.first_beyond(self.tolerance)

    @property
    def worst(self) -> Difference:
        """The place that is furthest apart."""
        return max(self.comparison.differences, key=lambda difference: difference.relative_l2)

    @property
    def passed(self) -> bool:
        """Whether both sides have the same places, and each is within the tolerance."""
        return self.comparison.ok(self.tolerance)

    @property
    def failure(self) -> str:
        """What is wrong, in a line that names the first place; empty if nothing is."""
        first = self.first_beyond
        if first is not None:
            detail = f"relative L2 {first.relative_l2:.1e}, expected at most {self.tolerance:.0e}"
            why = first.remark if math.isinf(first.relative_l2) and first.remark else detail
            return f"first divergence at {first.name}: {why}"
        lacking = [*self.comparison.only_left, *self.comparison.only_right]
        return "" if self.passed else f"the two sides have different places: {', '.join(lacking[:5]) or 'none at all'}"

    def at(self, place: str) -> Difference:
        """The difference at one place, such as `blocks.0` or `logits`."""
        return next(difference for difference in self.comparison.differences if difference.name == place)


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What was compared in one precision.

    Attributes:
        dtype: `float64`, `float32` or `bfloat16`.
        parts: The parts, in the order in which errors spread.
        curves: The curves of training by name, a value for each step of Flax and of PyTorch; empty otherwise.
    """

    dtype: str
    parts: tuple[Part, ...]
    curves: Mapping[str, tuple[Curve, Curve]] = field(default_factory=dict)

    def __getitem__(self, part: str) -> Part:
        """One part, such as `outputs` or `gradients`."""
        for found in self.parts:
            if found.name == part:
                return found
        raise KeyError(f"{part}: not compared; compared were {', '.join(found.name for found in self.parts)}")

    @property
    def passed(self) -> bool:
        """Whether every part passed."""
        return bool(self.parts) and all(part.passed for part in self.parts)

    @property
    def first_beyond(self) -> Difference | None:
        """The first place of the first part beyond its tolerance; None if there is none."""
        return next((part.first_beyond for part in self.parts if part.first_beyond is not None), None)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """One level of parity of one model.

    Attributes:
        level: `forward`, `layers`, `gradients`, `training` or `precision`.
        name: The name of the model, or its path.
        config: The config as it was checked: depth and image size may be reduced.
        batch_size: The number of images.
        seed: The seed of what is random.
        precisions: The precisions, in the order in which they were asked for.
        parameter_faults: Tensors that a model didn't hold bit for bit as given, with the side and the precision.
        settings: What else the figures depend on.
    """

    level: str
    name: str
    config: Config
    batch_size: int
    seed: int
    precisions: tuple[PrecisionReport, ...]
    parameter_faults: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        level: str,
        target: Target,
        seed: int,
        precisions: Sequence[PrecisionReport],
        faults: Sequence[str],
        **settings: Any,
    ) -> CheckReport:
        """The report of a check of a target."""
        return cls(
            level=level,
            name=target.name,
            config=target.config,
            batch_size=target.batch_size,
            seed=seed,
            precisions=tuple(precisions),
            parameter_faults=tuple(faults),
            settings=settings,
        )

    def __getitem__(self, dtype: str) -> PrecisionReport:
        """What was compared in one precision."""
        for report in self.precisions:
            if report.dtype == dtype:
                return report
        raise KeyError(f"{dtype}: not checked; checked were {', '.join(report.dtype for report in self.precisions)}")

    @property
    def passed(self) -> bool:
        """Whether every precision passed and both models held the parameters bit for bit."""
        return bool(self.precisions) and not self.parameter_faults and all(report.passed for report in self.precisions)

    @property
    def failures(self) -> tuple[str, ...]:
        """What failed, a line each; names the tensor or the first place beyond the tolerance."""
        lines = [f"parameters: {fault} is not bit for bit what was given" for fault in self.parameter_faults]
        for report in self.precisions:
            lines += [f"{report.dtype}: {part.name}: {part.failure}" for part in report.parts if part.failure]
        return tuple(lines)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts of all precisions."""
        return tuple(dict.fromkeys(part.name for report in self.precisions for part in report.parts))

    def columns(self, part: str) -> dict[str, Part]:
        """One part by precision."""
        return {report.dtype: report[part] for report in self.precisions if any(p.name == part for p in report.parts)}

    def rows(self, part: str) -> dict[str, list[Difference | None]]:
        """One part by place: its difference in each precision that has it."""
        columns = [
            {difference.name: difference for difference in found.comparison.differences}
            for found in self.columns(part).values()
        ]
        names = dict.fromkeys(name for column in columns for name in column)
        return {name: [column.get(name) for column in columns] for name in names}

    def __rich_console__(self, *_: object) -> Iterator[RenderableType]:
        """A table for each part, what failed, then the verdict."""
        yield from (self._table(part) for part in self.part_names)
        yield from self.failures
        yield f"{self.name}, {self.level}: {'[green]passed' if self.passed else '[red]FAILED'}"

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values; null stands for a difference without bounds."""
        return {
            "level": self.level,
            "passed": self.passed,
            "failures": list(self.failures),
            "batch_size": self.batch_size,
            "seed": self.seed,
            **self.settings,
            "precisions": [
                {
                    "dtype": report.dtype,
                    "passed": report.passed,
                    "parts": [_part_to_dict(part) for part in report.parts],
                    "curves": {
                        name: {"flax": _finite(left), "torch": _finite(right)}
                        for name, (left, right) in report.curves.items()
                    },
                }
                for report in self.precisions
            ],
        }

    def markdown(self, part: str = "outputs") -> str:
        """A Markdown table of one part: a row for each place, a column for each precision."""
        rows = [(place, *map(figure, cells)) for place, cells in self.rows(part).items()]
        return markdown_table(("place", *self.columns(part)), rows)

    def _table(self, part: str) -> Table:
        from rich.table import Table

        columns, rows = self.columns(part), self.rows(part)
        table = Table("place", title=f"{self.name}, {self.level}: {part}", title_justify="left")
        for dtype in columns:
            table.add_column(dtype, justify="right")
        limits = [found.tolerance for found in columns.values()]
        shown = _worst_rows(rows, limits)
        for place in shown:
            cells = [
                f"[red]{figure(cell)}" if cell is not None and not cell.relative_l2 <= limit else figure(cell)
                for cell, limit in zip(rows[place], limits, strict=True)
            ]
            table.add_row(place, *cells)
        if len(shown) < len(rows):
            table.caption = f"the worst {len(shown)} of {len(rows)} places"
        table.add_section()
        table.add_row("tolerance", *(f"{limit:.0e}" for limit in limits))
        return table


def figure(difference: Difference | None) -> str:
    """A relative difference as text."""
    return "" if difference is None else f"{difference.relative_l2:.1e}"


def to_json(reports: Sequence[CheckReport]) -> str:
    """The figures of some levels of one model as JSON."""
    data = {
        "name": reports[0].name if reports else None,
        "passed": all(report.passed for report in reports),
        "levels": {report.level: report.to_dict() for report in reports},
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _worst_rows(rows: Mapping[str, Sequence[Difference | None]], limits: Sequence[float]) -> list[str]:
    """Names of the rows to show, in their order: all of them if they are few."""
    if len(rows) <= ROWS:
        return list(rows)

    def badness(place: str) -> float:
        cells = zip(rows[place], limits, strict=True)
        return max(cell.relative_l2 / limit for cell, limit in cells if cell is not None)

    chosen = set(sorted(rows, key=badness, reverse=True)[:ROWS])
    # The first one that is beyond is what a reader looks for.
    chosen.update([place for place in rows if badness(place) > 1][:1])
    return [place for place in rows if place in chosen]


def _part_to_dict(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "tolerance": part.tolerance,
        "passed": part.passed,
        "first_beyond": None if part.first_beyond is None else part.first_beyond.name,
        "only_flax": list(part.comparison.only_left),
        "only_torch": list(part.comparison.only_right),
        "places": [
            {
                "name": difference.name,
                "shape": list(difference.right_shape),
                "relative_l2": _finite([difference.relative_l2])[0],
                "max_abs": _finite([difference.max_abs])[0],
                "remark": difference.remark,
            }
            for difference in part.comparison.differences
        ],
        "histogram": {f"1e{power}": count for power, count in zip(DECADES, part.histogram, strict=False) if count},
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no infinity and no NaN."""
    return [value if math.isfinite(value) else None for value in values]
