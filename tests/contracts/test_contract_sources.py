"""What is true of every source file: where tolerances are written, and how long files and functions are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("parity", "vit_jax", "vit_torch")
FILES = sorted(
    file for folder in (*PACKAGES, "tests", "benchmarks", "examples") for file in (ROOT / folder).rglob("*.py")
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

TOLERANCES = "parity/tolerances.py"
TOLERANCE_ARGUMENTS = {"rtol", "atol", "tol", "tolerance", "rel", "abs", "rel_tol", "abs_tol", "limit"}
# Comparisons whose tolerance would be the library's own.
APPROXIMATE = {"assert_allclose", "allclose", "isclose", "assert_close", "approx", "assert_array_almost_equal"}


def number(node: ast.AST) -> bool:
    """Whether an expression has a number in it that isn't 0; a count of rounding errors (`finfo().eps`) is derived."""
    return "finfo" not in ast.unparse(node) and any(
        isinstance(child, ast.Constant) and isinstance(child.value, int | float) and child.value not in (0, False)
        for child in ast.walk(node)
    )


def small(node: ast.AST) -> bool:
    """Whether an expression is a small number, which as a bound is a tolerance."""
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < 0.01


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def tolerances(source: str) -> list[str]:
    """Places of a file where a tolerance is written or left to a library."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            given = {keyword.arg for keyword in node.keywords}
            if called(node) in APPROXIMATE and not given & TOLERANCE_ARGUMENTS:
                found.append(f"line {node.lineno}: {called(node)} without a tolerance")
            for keyword in node.keywords:
                if keyword.arg in TOLERANCE_ARGUMENTS and number(keyword.value):
                    found.append(f"line {node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
        elif isinstance(node, ast.Compare):
            bounds = [
                right for op, right in zip(node.ops, node.comparators, strict=True) if is_below(op) and small(right)
            ]
            found += [f"line {node.lineno}: < {ast.unparse(bound)}" for bound in bounds]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(target) for target in targets]
            if any(name.lower().endswith(("tolerance", "rtol", "atol", "tol")) for name in names) and number(
                node.value
            ):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def is_below(operator: ast.cmpop) -> bool:
    return isinstance(operator, ast.Lt | ast.LtE)


def functions_longer_than(source: str, limit: int) -> list[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes}
    return [f"{name}: {length} lines" for name, length in lengths.items() if length > limit]


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_tolerances_are_written_in_one_file():
    found = {relative(file): tolerances(file.read_text()) for file in FILES if relative(file) != TOLERANCES}
    assert {file: places for file, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "source",
    [
        "np.testing.assert_allclose(a, b, rtol=1e-5)",
        "np.testing.assert_allclose(a, b)",
        "torch.allclose(a, b)",
        "check(atol=2 * 1e-3)",
        "assert a == pytest.approx(b)",
        "assert a == pytest.approx(b, rel=0.1)",
        "assert error <= 1e-4",
        "TOLERANCE = 1e-3",
        "rtol: float = 1e-3",
    ],
)
def test_a_tolerance_elsewhere_is_found(source):
    assert tolerances(source)


@pytest.mark.parametrize(
    "source",
    [
        "assert_allclose(a, b, rtol=TOLERANCES['float64'].limit)",
        "assert_allclose(a, b, rtol=0, atol=0)",
        "assert count < 3",
        "create_model(name, norm_eps=1e-5)",
        "assert error > 1e-6",
        "assert_allclose(a, b, rtol=0, atol=8 * np.finfo(np.float32).eps)",
    ],
)
def test_what_is_no_tolerance(source):
    assert tolerances(source) == []


def test_no_file_and_no_function_is_too_long():
    files = [
        f"{relative(file)}: {lines} lines" for file in FILES if (lines := file.read_text().count("\n")) > MAX_FILE_LINES
    ]
    functions = [
        f"{relative(file)}: {text}"
        for file in FILES
        for text in functions_longer_than(file.read_text(), MAX_FUNCTION_LINES)
    ]
    assert files + functions == []


def test_a_long_function_is_found():
    assert functions_longer_than("def f():\n" + "    x = 1\n" * 60, 60) == ["f: 61 lines"]
    assert functions_longer_than("def f():\n" + "    x = 1\n" * 59, 60) == []


@pytest.mark.parametrize(("block", "end"), [("tests", ".venv/bin/pytest -q -n 2 --dist loadfile"), ("demo", " demo")])
def test_ci_runs_the_commands_of_the_readme(block, end):
    """`.ci/run` takes each from between these two lines."""
    text = (ROOT / "README.md").read_text().split(f"\n<!-- {block} -->\n")[1].split("\n```\n")[0]
    commands = [line for line in text.splitlines() if line.startswith("python")]
    assert len(commands) == 1
    assert commands[0].endswith(end)
    assert f"run_from_readme {block};" in (ROOT / ".ci" / "run").read_text()
