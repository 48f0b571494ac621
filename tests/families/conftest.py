"""The laid-over copy, and what its workers find, once for all tests of the directory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from overlay_tree import lay_over, start

HERE = Path(__file__).parent
WORKERS = ("checks", "training", "meshes")
OVER_THE_REGISTRY = (
    *("tests/contracts/test_contract_mirror.py", "tests/contracts/test_contract_api.py"),
    *("tests/parity/test_parity_shapes.py", "tests/parity/test_parity_gradients.py"),
)
# What is parametrised by a toy, or looks at all files.
CHOSEN = "toy or twins_have_the_same_outline or same_files or stale or imports_itself or every_family or every_model"


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    return lay_over(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="session")
def workers(request, tree) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All that are asked for at once: together they take as long as the longest, where there are processors."""
    asked = {name for item in request.session.items for name in item.fixturenames}
    started = {name: start(tree, str(HERE / f"{name}_worker.py")) for name in WORKERS if name in asked}
    if "over_the_registry" in asked:
        command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN, *OVER_THE_REGISTRY)
        started["registry"] = start(tree, *command)
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def _found(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=580)
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="session")
def checks(workers) -> dict[str, Any]:
    return _found(workers["checks"])


@pytest.fixture(scope="session")
def training(workers) -> dict[str, Any]:
    return _found(workers["training"])


@pytest.fixture(scope="session")
def meshes(workers) -> dict[str, Any]:
    return _found(workers["meshes"])


@pytest.fixture(scope="session")
def over_the_registry(workers) -> tuple[int, str]:
    """Exit status and output of the house's own tests, in the copy."""
    out, err = workers["registry"].communicate(timeout=580)
    return workers["registry"].returncode, out + err
