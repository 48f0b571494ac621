"""Which module may load what: in subprocesses, where nothing else has loaded it, and by reading the sources.

The house has floors, from the bottom: nothing imports what is above it, neither when it is loaded nor in a function,
and no modules import each other in a circle.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

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
    "import parity.bridge": (*JAX, *TORCH, "vit_jax", "vit_torch"),
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


# The floors from the bottom; the longest name that a module begins with says where it is.
FLOORS = (
    ("parity.outputs", "parity.compare", "parity.tolerances", "parity.html_report"),
    ("parity.configs",),
    ("parity.checkpoints.accounting", "parity.checkpoints.leaf"),
    ("parity.checkpoints.containers",),
    (
        *("parity.checkpoints.adapt", "parity.checkpoints.assumed", "parity.checkpoints.checkpoint"),
        *("parity.checkpoints.comparison", "parity.checkpoints.name_groups", "parity.checkpoints.resize"),
        *("parity.checkpoints.shapes", "parity.checkpoints.statistics"),
    ),
    ("parity.checkpoints.formats",),
    ("parity.checkpoints", "parity.data", "parity.recipes"),
    ("parity.runs",),
    ("vit_jax", "vit_torch"),
    ("parity.checks", "parity.diagnosis", "parity.bridge"),
    ("parity.cli", "parity.demo", "parity.testing"),
    ("parity",),  # the package's own door, which opens the others when they are asked for
    ("tests", "benchmarks"),
)
OURS = ("parity", "vit_jax", "vit_torch")
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
TWINS = FLOOR["vit_jax"]
# What no module on these floors and below loads at all; what Flax's training wrote is read through Orbax, when asked.
NEVER = (*(name for name in JAX if name != "orbax"), *TORCH)
# What the commands and what they are made of load inside of a function only, so that `--help` answers at once.
HEAVY = (*JAX, *TORCH, "vit_jax", "vit_torch", "parity.checks", "parity.diagnosis", "parity.demo", "parity.bridge")
LIGHT = ("parity.cli", "parity.testing", "parity")
# When an import is made: as the module is loaded, in a function, or by who checks types alone.
When = Literal["load", "call", "types"]


def module_name(file: Path, root: Path = ROOT) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[str, When]]:
    """Absolute names that a module imports, and when it does so."""
    inside: dict[int, When] = {}
    for outer in ast.walk(tree):
        when = "types" if is_type_checking(outer) else "call" if is_function(outer) else None
        if when is not None:
            inside |= {id(node): when for node in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside.get(id(node), "load")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from ((f"{source}.{alias.name}", inside.get(id(node), "load")) for alias in node.names)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def home(name: str, known: Mapping[str, object]) -> str:
    """The longest known name that a dotted name begins with; empty if none."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def within(name: str, packages: tuple[str, ...]) -> bool:
    return home(name, dict.fromkeys(packages)) != ""


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports that it may not."""
    floor = FLOOR[home(module, FLOOR)]
    found = []
    for name, when in imported(ast.parse(source), module, is_package=is_package):
        upward = FLOOR.get(home(name, FLOOR), 0) > floor
        framework = floor < TWINS and (within(name, NEVER) or (within(name, ("orbax",)) and when == "load"))
        across = any(
            within(module, (twin,)) and within(name, (other, *libraries))
            for twin, other, libraries in (("vit_jax", "vit_torch", TORCH), ("vit_torch", "vit_jax", JAX))
        )
        eager = home(module, FLOOR) in LIGHT and when == "load" and within(name, HEAVY)
        if upward or framework or across or eager:
            found.append(f"{module} imports {name}")
    return found


def sources() -> dict[str, Path]:
    """The files of our packages by module."""
    files = (file for package in OURS for file in sorted((ROOT / package).rglob("*.py")))
    return {module_name(file): file for file in files}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules of which each imports the next and the last is the first; empty if there are none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_imports_follow_the_floors():
    found = [
        violation
        for module, file in sources().items()
        for violation in violations(file.read_text(), module, is_package=file.name == "__init__.py")
    ]
    assert found == []


def test_every_module_has_a_floor():
    """The door of `parity` isn't a floor for what is in it."""
    homes = {module: home(module, FLOOR) for module in sources()}
    assert [module for module, found in homes.items() if found == "parity" and module != "parity"] == []
    assert set(FLOOR) - set(homes.values()) == {"tests", "benchmarks"}


def test_no_modules_import_each_other_in_a_circle():
    """Imports in functions count, for a circle is what they are for; names that only annotations need don't."""
    files = sources()
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        names = imported(ast.parse(file.read_text()), module, is_package=file.name == "__init__.py")
        graph[module] = {home(name, files) for name, when in names if when != "types"} - {module, ""}
    assert sum(map(len, graph.values())) > len(graph)
    assert circle(graph) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("parity.configs.vit", "import jax"),
        ("parity.configs.vit", "def f():\n    from ..checkpoints import read"),
        ("parity.configs.vit", "if TYPE_CHECKING:\n    from ..recipes import Recipe"),
        ("parity.outputs", "from .configs import get"),
        ("parity.checkpoints.accounting", "from .containers.stored import Shape"),
        ("parity.checkpoints.containers.files", "def f():\n    from ..formats import native"),
        ("parity.checkpoints.containers.files", "from .. import account"),
        ("parity.checkpoints.containers.orbax_directory", "import orbax.checkpoint"),
        ("parity.checkpoints.containers.orbax_directory", "def f():\n    import jax"),
        ("parity.checkpoints.formats.native", "from vit_torch import load"),
        ("parity.checkpoints.formats.run", "def f():\n    from vit_jax.run_checkpoints import read_run"),
        ("parity.checkpoints.formats.run", "def f():\n    from ...runs import directory"),
        ("parity.checkpoints.formats.run", "def f():\n    from ...recipes import Recipe"),
        ("parity.data.loader", "import torch.utils.data"),
        ("parity.data.loader", "from ..runs import TrainingState"),
        ("parity.recipes.digits", "from parity.cli import main"),
        ("parity.runs.start", "def f():\n    from vit_jax import run_directory"),
        ("parity.runs.start", "def f():\n    from ..bridge import read_training"),
        ("parity.runs.start", "import parity"),
        ("parity.runs.start", "from parity.something_new import f"),
        ("vit_jax.state_dict", "import torch"),
        ("vit_jax.layers.mlp", "from parity import checks"),
        ("vit_jax.start", "def f():\n    from parity.bridge import read_training"),
        ("vit_jax.start", "def f():\n    from vit_torch.run_checkpoints import read_state"),
        ("vit_torch.start", "def f():\n    import orbax.checkpoint"),
        ("vit_torch.random", "from vit_jax import random"),
        ("parity.checks.forward", "def f():\n    from ..demo import run"),
        ("parity.cli", "import jax"),
        ("parity.cli", "from .. import checks"),
        ("parity.cli.weights", "from ..bridge import convert_training"),
        ("parity.demo", "from tests.runs import run_states"),
        ("parity.html_report", "from vit_torch import load"),
        ("parity", "from . import demo"),
    ],
)
def test_the_floors_can_be_violated(module, source):
    assert violations(source, module, is_package=module in ("parity", "parity.cli"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("parity.configs.registry", "from .vit import VitConfig"),
        ("parity.checkpoints.formats.run", "from ..containers.tensors import open_tensors\nfrom ...configs import get"),
        ("parity.checkpoints.containers.orbax_directory", "def f():\n    import orbax.checkpoint"),
        ("parity.cli", "def run():\n    import vit_jax\n    from .. import checks"),
        ("parity.checks.forward", "import jax, torch, vit_jax, vit_torch"),
        ("parity.bridge", "from .runs.read_training import read_training\nfrom vit_jax import run_checkpoints"),
        ("vit_jax.state_dict", "from parity.checkpoints import account\nfrom .models import Model"),
        ("vit_jax.start", "from parity.runs.read_training import read_training"),
        ("parity", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import checkpoints, runs"),
    ],
)
def test_what_the_floors_allow(module, source):
    assert violations(source, module, is_package=module in ("parity", "parity.cli")) == []
