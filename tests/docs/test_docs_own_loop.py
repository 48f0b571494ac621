"""The Python of docs/own-loop.md, docs/house.md and README.md runs as it stands there."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jax
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/own-loop.md", "docs/house.md")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True, scope="module")
def quick_compile():
    """XLA without most of its optimisations, and PyTorch without a C++ compiler, which not every machine has."""
    before, compile_ = jax.config.read("jax_disable_most_optimizations"), torch.compile
    jax.config.update("jax_disable_most_optimizations", True)
    torch.compile = functools.partial(compile_, backend="eager", fullgraph=True)
    yield
    torch.compile = compile_
    jax.config.update("jax_disable_most_optimizations", before)


def blocks(page: str) -> list[tuple[int, str]]:
    """Each block of Python and the line that it begins at."""
    text = (ROOT / page).read_text()
    return [(text[: found.start(1)].count("\n"), found.group(1)) for found in _BLOCK.finditer(text)]


def run(page: str, found: list[tuple[int, str]]) -> None:
    """Runs blocks one after another in one namespace; a traceback names the page and its line."""
    namespace: dict = {}
    for line, block in found:
        exec(compile("\n" * line + block, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    assert found
    run(page, found)


def test_a_block_that_is_wrong_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((line, block),) = blocks("docs/house.md")
    with pytest.raises(AssertionError):
        run("docs/house.md", [(line, block.replace("(1152, 384)  ", "(384, 1152)  "))])
