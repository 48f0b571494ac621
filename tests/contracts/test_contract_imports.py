"""Which module may load what: in subprocesses, where nothing else has loaded it, and by reading the sources."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")
TORCH = ("torch",)

# Each statement loads none of these, and runs where they don't exist.
WITHOUT: dict[str, tuple[str, ...]] = {
    "import parity": (*JAX, *TORCH, "numpy"),
    "import parity.configs": (*JAX, *TORCH, "numpy"),
    "import parity.recipes": (*JAX, *TORCH, "numpy"),
    "import parity.checkpoints": (*JAX, *TORCH),
    "import parity.data": (*JAX, *TORCH),
    "import parity.runs": (*JAX, *TORCH),
    "import parity.compare, parity.tolerances": (*JAX, *TORCH),
    "import parity.cli": (*JAX, *TORCH),
    "import parity.testing": (*JAX, *TORCH, "numpy"),
    "import vit_jax, vit_jax.sharding, vit_jax.state_dict": (*TORCH, "vit_torch"),
    "import vit_torch, vit_torch.state_dict": (*JAX, "vit_jax"),
}


def run_without(statement: str, absent: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Runs a statement where packages can't be imported; importing one raises as if it weren't installed."""
    code = f"import sys\nfor name in {absent!r}:\n    sys.modules[name] = None\n{statement}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def loaded_by(statement: str, packages: tuple[str, ...]) -> list[str]:
    """Which of some packages a statement loads."""
    code = f"import sys\n{statement}\nprint(*sorted(set({packages!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return result.stdout.split()


def needs_framework(statement: str) -> None:
    for package, framework in (("vit_jax", "jax"), ("vit_torch", "torch")):
        if f"import {package}" in statement and not importlib.util.find_spec(framework):
            pytest.skip(f"{framework} isn't installed here")


@pytest.mark.parametrize("statement", WITHOUT)
def test_import_loads_nothing_of_the_other_side(statement):
    needs_framework(statement)
    assert loaded_by(statement, WITHOUT[statement]) == []


@pytest.mark.parametrize("statement", WITHOUT)
def test_import_works_where_the_other_side_is_absent(statement):
    needs_framework(statement)
    result = run_without(statement, WITHOUT[statement])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("statement", WITHOUT)
def test_both_tests_can_fail(statement, tmp_path):
    """An import in the statement's place, of stand-ins that any environment has, is found for each statement's list."""
    for package in WITHOUT[statement]:
        (tmp_path / f"{package}.py").write_text("")
    planted = f"sys.path.insert(0, {str(tmp_path)!r})\nimport {WITHOUT[statement][0]}"
    assert loaded_by(planted, WITHOUT[statement]) == [WITHOUT[statement][0]]
    result = run_without(planted, WITHOUT[statement])
    assert result.returncode != 0
    assert "ModuleNotFoundError" in result.stderr


# The arrows of the design: what a package may import, and what only inside of a function, where it is asked for.
FRAMEWORKS = {*JAX, *TORCH}
SIDES = (*FRAMEWORKS, "vit_jax", "vit_torch")
OURS = {"parity", "vit_jax", "vit_torch"}
SHARED = ("parity.configs", "parity.checkpoints", "parity.data", "parity.recipes")
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "parity.configs": (*SIDES, "parity.checkpoints", "parity.data", "parity.recipes", "parity.runs"),
    "parity.checkpoints": (*SIDES, "parity.data", "parity.recipes", "parity.runs"),
    "parity.data": (*SIDES, "parity.checkpoints", "parity.recipes", "parity.runs"),
    "parity.recipes": (*SIDES, "parity.checkpoints", "parity.runs"),
    "parity.compare": SIDES,
    "parity.tolerances": SIDES,
    "vit_jax": (*TORCH, "vit_torch"),
    "vit_torch": (*JAX, "vit_jax"),
}
# What a module may import all the same inside of a function, and why.
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    # A run is above the checkpoints, and Orbax holds the state of Flax's training.
    "parity.checkpoints.formats.run": ("parity.runs", "vit_jax.run_checkpoints"),
}
# The commands and what they are made of: these load a framework, and checks, inside of a function only.
LAZY = (*FRAMEWORKS, "vit_jax", "vit_torch", "parity.checks", "parity.diagnosis", "parity.demo")
ABOVE = ("parity.checks", "parity.diagnosis", "parity.cli", "parity.demo", "parity.html_report")


def module_name(file: Path, root: Path = ROOT) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Absolute names that a module imports, and whether it does so when it is loaded."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(function)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from ((f"{source}.{alias.name}", id(node) not in inside) for alias in node.names)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports of a module that go against the arrows."""
    layer = next((name for name in FORBIDDEN if within(module, name)), None)
    found = []
    for name, at_load in imported(ast.parse(source), module, is_package=is_package):
        if not at_load and any(within(name, allowed) for allowed in EXCEPTIONS.get(module, ())):
            continue
        upward = layer is not None and any(within(name, above) for above in (*ABOVE, *FORBIDDEN[layer]))
        above = any(within(module, x) for x in ("parity.checks", "parity.diagnosis", "parity.demo"))
        eager = layer is None and not above and at_load and any(within(name, x) for x in LAZY)
        if upward or eager:
            found.append(f"{module} imports {name}")
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def sources() -> list[Path]:
    return sorted(file for package in OURS for file in (ROOT / package).rglob("*.py"))


def test_imports_follow_the_arrows():
    found = [
        violation
        for file in sources()
        for violation in violations(file.read_text(), module_name(file), is_package=file.name == "__init__.py")
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("parity.configs.vit", "import jax"),
        ("parity.configs.vit", "def f():\n    from ..checkpoints import read"),
        ("parity.checkpoints.formats.native", "from vit_torch import load"),
        ("parity.checkpoints.formats.run", "from vit_jax.run_checkpoints import read_run"),
        ("parity.checkpoints.formats.native", "def f():\n    from vit_jax.run_checkpoints import read_run"),
        ("parity.data.loader", "import torch.utils.data"),
        ("parity.recipes.digits", "from parity.cli import main"),
        ("parity.checkpoints.formats.run", "from ...runs import directory"),
        ("parity.runs.training_state", "from vit_jax import run_directory"),
        ("vit_jax.state_dict", "import torch"),
        ("vit_jax.layers.mlp", "from parity import checks"),
        ("vit_torch.random", "from vit_jax import random"),
        ("parity.cli", "import jax"),
        ("parity.cli", "from . import checks"),
        ("parity.html_report", "from vit_torch import load"),
    ],
)
def test_the_arrows_can_be_violated(module, source):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("parity.configs.registry", "from .vit import VitConfig"),
        ("parity.cli", "def run():\n    import vit_jax\n    from . import checks"),
        ("parity.checks.forward", "import jax, torch, vit_jax, vit_torch"),
        ("parity.checkpoints.formats.run", "def f():\n    from vit_jax.run_checkpoints import read_run"),
        ("parity.checkpoints.formats.run", "def f():\n    from ...runs import directory"),
        ("parity.runs.training_state", "def f():\n    from vit_jax import run_directory"),
        ("vit_jax.state_dict", "from parity.checkpoints import account\nfrom .models import Model"),
        (
            "parity.html_report",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .checks import CheckReport",
        ),
    ],
)
def test_what_the_arrows_allow(module, source):
    assert violations(source, module) == []
