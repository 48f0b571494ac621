"""Files to spoil, and the count of cases at the end of the output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))


@pytest.fixture(scope="module")
def tensors():
    from samples import samples

    return samples()


@pytest.fixture(scope="module")
def torch_files() -> Path:
    return DATA / "torch_files"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One for all cases of a file: each writes over the one before."""
    return tmp_path_factory.mktemp("fuzz")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    counts = [(name, count) for report in reports for name, count in report.user_properties if name == "fuzz cases"]
    if counts:
        terminalreporter.write_line(f"{sum(count for _, count in counts)} fuzz cases")
