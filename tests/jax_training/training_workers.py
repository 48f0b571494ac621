"""Scripts of this directory in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def worker_command(name: str, *arguments: str) -> list[str]:
    """Warnings are errors there, too."""
    return [sys.executable, "-W", "error", str(Path(__file__).with_name(name)), *arguments]


def run_worker(name: str, *arguments: str):
    """The JSON that a script prints in its last line."""
    done = subprocess.run(worker_command(name, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
