"""Scripts of this directory in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Most runs here are so short that compiling them well would cost most of their time.
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def worker_command(name: str, *arguments: str) -> list[str]:
    """Warnings are errors there, too."""
    return [sys.executable, "-W", "error", str(Path(__file__).with_name(name)), *arguments]


def run_worker(name: str, *arguments: str, env: dict[str, str] = ENVIRONMENT):
    """The JSON that a script prints in its last line."""
    command = worker_command(name, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
