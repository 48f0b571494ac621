"""What `diff` found, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compare import Comparison, Difference
from ..html_report import markdown_table
from .align import Pair

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_TRIALS = 12


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """Where two models part.

    Attributes:
        left: The name of the place on the left.
        right: The name of the place on the right.
        found: The difference there.
        rms: Root mean square of the values there, on the left and on the right.
        before: The last pair of places that agrees; None if there is none.
    """

    left: str
    right: str
    found: Difference
    rms: tuple[float, float]
    before: Pair | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A hypothesis and what became of the difference under it.

    Attributes:
        cause: The kind of mistake, such as `norm_eps`.
        text: What one side may do, for what the other does.
        path: The path of the module that was changed; empty for the model itself.
        at_place: Relative L2 where the two part.
        at_output: Relative L2 of the output.
    """

    cause: str
    text: str
    path: str
    at_place: float
    at_output: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The hypothesis that explains the difference.

    Attributes:
        trial: The hypothesis.
        everywhere: Whether it holds for all modules of its kind, and not for that one alone.
        at_output: Relative L2 of the output with all that.
        next_place: The next place beyond the tolerance; None if the rest agrees.
    """

    trial: Trial
    everywhere: bool
    at_output: float
    next_place: str | None


@dataclass(frozen=True, kw_only=True)
class DiffReport:
    """Two models held against each other.

    Attributes:
        left: What was given as the left model.
        right: What was given as the right model.
        dtype: The precision of the comparison.
        tolerance: Largest relative L2 that passes.
        comparison: The differences of the intermediates that belong together, in the order of the left.
        place: Where they part; None if they don't.
        trials: Hypotheses, best first.
        verdict: The one that explains the difference; None if none does.
        tried_on: The side, `left` or `right`, that a hypothesis makes like the other; empty if none was tried.
        notes: What else differs.
    """

    left: str
    right: str
    dtype: str
    tolerance: float
    comparison: Comparison
    place: FirstDifference | None
    trials: tuple[Trial, ...] = ()
    verdict: Verdict | None = None
    tried_on: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every pair of intermediates agrees, the output among them."""
        return self.place is None

    @property
    def output(self) -> Difference | None:
        """The difference of the outputs; None if their sizes differ."""
        return next((found for found in self.comparison.differences if found.name == "output"), None)

    @property
    def lines(self) -> list[str]:
        """The result in words."""
        pairs = len(self.comparison.differences)
        if self.place is None:
            return [f"the same: {pairs} places agree to {self.tolerance:.0e} in {self.dtype}", *self.notes]
        place, found = self.place, self.place.found
        where = place.left if place.left == place.right else f"{place.left} (right: {place.right})"
        detail = found.remark or f"relative L2 {found.relative_l2:.1e}, largest difference {found.max_abs:.1e}"
        lines = [
            f"they part at {where}: {detail} ({self.dtype}, tolerance {self.tolerance:.0e})",
            f"sizes there (root mean square): {place.rms[0]:.6g} and {place.rms[1]:.6g}",
        ]
        if place.before:
            lines.append(f"the last place that agrees: {place.before.left}")
        if self.output is not None:
            lines.append(f"outputs: relative L2 {self.output.relative_l2:.1e}")
        return [*lines, *self._cause(), *self.notes]

    def _cause(self) -> list[str]:
        if self.verdict is None:
            tried = f"none of the {len(self.trials)} hypotheses that were tried" if self.trials else "nothing was tried"
            return [f"cause: {tried}" + (" takes the difference away" if self.trials else "")]
        trial, verdict = self.verdict.trial, self.verdict
        where = "everywhere" if verdict.everywhere else f"at {trial.path or 'the model'}"
        changed = f"; so changed, the {self.tried_on} is" if self.tried_on else "; so changed, it is"
        lines = [
            f"cause: {trial.cause}: {trial.text}, {where}{changed} {trial.at_place:.1e} from the other there and "
            f"{verdict.at_output:.1e} in its output"
        ]
        equal = [other for other in self.trials if other != trial and other.at_place <= self.tolerance]
        if equal and trial.at_place <= self.tolerance:
            lines.append("just as well: " + "; ".join(f"{other.cause}: {other.text}" for other in equal))
        if verdict.next_place:
            lines.append(f"with that, they part at {verdict.next_place}")
        return lines

    def __rich_console__(self, *_: object) -> Iterator[RenderableType]:
        """Places, hypotheses, then the result."""
        from rich.markup import escape
        from rich.table import Table

        yield self.comparison.table(escape(f"{self.left} | {self.right}, {self.dtype}"), tolerance=self.tolerance)
        if self.trials:
            table = Table("cause", "hypothesis", "module", "there", "output", title="hypotheses", title_justify="left")
            for row in self._trial_rows():
                table.add_row(*map(escape, row))
            yield table
        for line in self.lines:
            yield escape(line)

    def text(self) -> str:
        """The result in words and the best hypotheses, a line each."""
        tried = [" | ".join(row) for row in self._trial_rows()]
        return "\n".join([f"{self.left} | {self.right}", *self.lines, *(["hypotheses:"] if tried else []), *tried])

    def to_json(self) -> str:
        """The figures as JSON."""
        data = dataclasses.asdict(self) | {"passed": self.passed, "lines": self.lines}
        return json.dumps(data, indent=2) + "\n"

    def markdown(self) -> str:
        """The result, the hypotheses and the places as Markdown."""
        parts = [f"# {self.left} | {self.right}", "\n".join(f"- {line}" for line in self.lines)]
        if self.trials:
            header = ("cause", "hypothesis", "module", "there", "output")
            parts += ["## Hypotheses", markdown_table(header, self._trial_rows())]
        return "\n\n".join([*parts, "## Places", self.comparison.markdown()]) + "\n"

    def _trial_rows(self) -> list[tuple[str, ...]]:
        rows = [
            (trial.cause, trial.text, trial.path, f"{trial.at_place:.1e}", f"{trial.at_output:.1e}")
            for trial in self.trials[:_SHOWN_TRIALS]
        ]
        more = len(self.trials) - len(rows)
        return [*rows, *([("...", f"{more} more, all further away", "", "", "")] if more else [])]
