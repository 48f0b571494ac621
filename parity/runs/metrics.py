"""Where the metrics of a run go: the terminal, a file of JSON lines, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import outputs

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard's event files in `tensorboard/`.

    Args:
        directory: The directory of the run.
        step: Steps that were made; what an interrupted run wrote beyond them is taken out, for it comes again.
        before: Lines that begin a new file, those of a run that goes on here.
    """

    def __init__(self, directory: Path, *, step: int, before: Iterable[Mapping[str, Any]] = ()):
        from tensorboardX import SummaryWriter  # here, because it loads PyTorch where that is installed

        lines = read_metrics(directory) or before
        write_lines(directory, [record for record in lines if record["step"] <= step])
        self._file = (directory / METRICS).open("a")
        self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes metrics of a step, such as `{"train/loss": 2.3}`."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        self._file.close()
        self._tensorboard.close()


class Reporter:
    """Progress bar and metrics of a run.

    A line of metrics waits for its step to be computed; between lines the host runs ahead by one step.

    Args:
        directory: The directory of the run.
        first: Steps that were made before.
        steps: The steps of the whole run.
        batch_size: Images of a step.
        log_every: Steps between lines of metrics; the first and the last step have one, too.
        console: Where the progress bar and evaluations are printed; None prints nothing.
        told: Lines to begin with.
        before: Lines of metrics of the run that goes on here.
        main: Whether this is the first process, the only one that writes.
        wait: Waits until metrics are computed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        first: int,
        steps: int,
        batch_size: int,
        log_every: int,
        console: Console | None,
        told: Iterable[str] = (),
        before: Iterable[Mapping[str, Any]] = (),
        main: bool = True,
        wait: Callable[[Mapping[str, Any]], object] = lambda metrics: None,
    ):
        self._writer = MetricsWriter(directory, step=first, before=before) if main else None
        self._wait = wait
        self._steps, self._batch_size, self._log_every = steps, batch_size, log_every
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=console is None or not main)
        if not self._progress.disable:
            for line in told:
                self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._task = self._progress.add_task("training", total=steps, completed=first, speed="")
        self._previous: Mapping[str, Any] | None = None
        self._timed_from: tuple[int, float] | None = None

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Reports a step from its metrics, which may still be being computed."""
        if self._previous is not None:
            self._wait(self._previous)
        self._previous = metrics
        self._progress.update(self._task, completed=step)
        if step % self._log_every == 0 or step in (1, self._steps):
            record = {f"train/{name}": float(value) for name, value in metrics.items()}
            self._write(step, record | self._speed(step))
        elif self._timed_from is None:  # the step that was compiled isn't timed
            self._wait(metrics)
            self._timed_from = (step, time.perf_counter())

    def evaluation(self, step: int, metrics: Mapping[str, float], *, ema: bool = False) -> None:
        """Reports an evaluation, of the averaged parameters or of the last ones; its time doesn't count as training."""
        kind = "test_ema" if ema else "test"
        self._write(step, {f"{kind}/{name}": value for name, value in metrics.items()})
        if not self._progress.disable:
            self._progress.console.print(f"step {step}: {'averaged, ' if ema else ''}test {shown(metrics)}")
        self.pause()

    def pause(self) -> None:
        """Leaves the time until the next step out of the step time."""
        self._timed_from = None

    def _speed(self, step: int) -> dict[str, float]:
        now, since = time.perf_counter(), self._timed_from
        self._timed_from = (step, now)
        if since is None:
            return {}
        seconds = (now - since[1]) / (step - since[0])
        images = self._batch_size / seconds
        self._progress.update(self._task, speed=f"{seconds * 1e3:.1f} ms/step, {images:.0f} images/s")
        return {"time/step_seconds": seconds, "time/images_per_second": images}

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        if self._writer is not None:
            self._writer.write(step, record)

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()


def shown(metrics: Mapping[str, float]) -> str:
    """Metrics in words, such as `accuracy 98.06%, loss 0.0712`."""
    return ", ".join(f"{name} {value:{'.2%' if name == 'accuracy' else '.4f'}}" for name, value in metrics.items())


def read_metrics(directory: str | Path) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`; a last line that was cut off is left out.

    Raises:
        ValueError: A line that isn't one of a run's; names it.
    """
    path = Path(directory) / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [_record(line) for line in lines if line.endswith("\n")]
    if None in records:
        number = records.index(None)
        got = f"got {lines[number][:40]!r}, expected a JSON object with a step"
        raise ValueError(f"{path}: line {number + 1}: {got}")
    return [record for record in records if record is not None]


def _record(line: str) -> dict[str, float] | None:
    """A line's metrics; None where there are none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


def write_lines(directory: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a run's `metrics.jsonl`, whole or not at all."""
    outputs.write_text(directory / METRICS, "".join(json.dumps(record) + "\n" for record in lines))
