"""Files and directories that the documents name are there, and so are the documents that they link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")))
# What has changed since is said in the past.
PAGES.remove("CHANGELOG.md")
_TOP = "parity|vit_jax|vit_torch|tests|docs|benchmarks|examples"
_PATH = re.compile(rf"`((?:{_TOP})/[\w./-]*)`")
_LINK = re.compile(r"\]\(([\w./-]+)(#[\w-]+)?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def missing(text: str, folder: Path) -> list[str]:
    """Names in a document that stand for nothing."""
    found = [path for path in _PATH.findall(text) if not (ROOT / path).exists()]
    for path, anchor in _LINK.findall(text):
        file = folder / path
        if not file.exists() or (anchor and anchor[1:] not in anchors(file.read_text())):
            found.append(path + anchor)
    return found


def anchors(text: str) -> set[str]:
    """The anchors that a web page of a document has for its headings."""
    headings = (re.sub(r"[^\w -]", "", heading.lower()) for heading in _HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_document_names_is_there(page):
    file = ROOT / page
    assert missing(file.read_text(), file.parent) == []


def test_what_is_not_there_is_noticed():
    text = "`parity/chekcs/forward.py`, `parity/checks/`, [a](docs/houses.md)"
    text += ", [b](docs/house.md#ten-files), [c](docs/house.md#x)"
    assert missing(text, ROOT) == ["parity/chekcs/forward.py", "docs/houses.md", "docs/house.md#x"]


def test_the_picture_of_the_floors_names_what_is_there():
    names = re.findall(r'class="name">([\w/., ]+)<', (ROOT / "docs/images/floors.svg").read_text())
    paths = [path for name in names for path in name.split(", ")]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
