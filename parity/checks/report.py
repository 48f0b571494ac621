"""What a check found, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compare import Comparison, Difference
from ..configs import Config
from ..tolerances import FORWARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """The comparison in one precision.

    Attributes:
        dtype: `float64`, `float32` or `bfloat16`.
        comparison: Flax on the left, PyTorch on the right; places in the order of the forward pass.
    """

    dtype: str
    comparison: Comparison

    @property
    def tolerance(self) -> float:
        """Largest relative L2 that passes."""
        return FORWARD[self.dtype].limit

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
        """Whether every place is within the tolerance."""
        return self.comparison.ok(self.tolerance)

    def at(self, place: str) -> Difference:
        """The difference at one place, such as `blocks.0` or `logits`."""
        return next(difference for difference in self.comparison.differences if difference.name == place)


@dataclass(frozen=True, kw_only=True)
class ForwardReport:
    """Forward parity of one model.

    Attributes:
        name: Of the model, or its path.
        config: As it was checked: depth and image size may be reduced.
        batch_size: Images.
        seed: Of images and parameters.
        precisions: In the order they were asked for.
        parameter_faults: Tensors that a model didn't hold bit for bit as given, with the side and the precision.
    """

    name: str
    config: Config
    batch_size: int
    seed: int
    precisions: tuple[PrecisionReport, ...]
    parameter_faults: tuple[str, ...] = ()

    def __getitem__(self, dtype: str) -> PrecisionReport:
        """The comparison in one precision."""
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
            first = report.first_beyond
            if first is not None:
                detail = first.remark or f"relative L2 {first.relative_l2:.1e}, expected at most {report.tolerance:.0e}"
                lines.append(f"{report.dtype}: first divergence at {first.name}: {detail}")
            elif not report.passed:
                lines.append(f"{report.dtype}: the two sides have different places")
        return tuple(lines)

    def __rich_console__(self, *_: object) -> Iterator[RenderableType]:
        """A table for each precision, then the verdict."""
        for report in self.precisions:
            title = f"{self.name}, {report.dtype}, tolerance {report.tolerance:.0e}"
            yield report.comparison.table(title, tolerance=report.tolerance)
        yield from self.failures
        yield f"{self.name}: {'[green]passed' if self.passed else '[red]FAILED'}"

    def to_json(self) -> str:
        """The figures as JSON."""
        precisions = [
            {
                "dtype": report.dtype,
                "tolerance": report.tolerance,
                "passed": report.passed,
                "places": [dataclasses.asdict(difference) for difference in report.comparison.differences],
            }
            for report in self.precisions
        ]
        data = {"name": self.name, "passed": self.passed, "failures": self.failures, "precisions": precisions}
        return json.dumps(data, indent=2) + "\n"

    def markdown(self) -> str:
        """A Markdown table: a row for each place, a column for each precision."""
        names = [report.dtype for report in self.precisions]
        lines = [f"| place | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        for first in self.precisions[0].comparison.differences if self.precisions else ():
            cells = [f"{report.at(first.name).relative_l2:.1e}" for report in self.precisions]
            lines.append(f"| {first.name} | {' | '.join(cells)} |")
        return "\n".join(lines)
