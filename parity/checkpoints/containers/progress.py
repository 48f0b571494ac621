"""A progress bar for what takes long, where somebody is watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE = 1.0  # seconds before it appears


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Gives a function to call with the bytes that are done and those there are in all; None without a terminal.

    Args:
        label: What is being done.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label)
    started = time.monotonic()

    def advance(done: int, total: int) -> None:
        if time.monotonic() - started > _PATIENCE:
            bar.start()  # again has no effect
            bar.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        bar.stop()
