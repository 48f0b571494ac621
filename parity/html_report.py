"""Reports for people: Markdown with its pictures beside it, and one self-contained HTML file of the same text."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import outputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border: 1px solid #d0d7de; padding: .3rem .7rem; text-align: left; font-variant-numeric: tabular-nums; }
th { background: #f6f8fa; }
img { max-width: 100%; }
code { background: #f6f8fa; padding: .1rem .3rem; border-radius: .2rem; }
"""


# In the head of every page, by which a report of ours is known.
_GENERATOR = '<meta name="generator" content="vit-parity">'
_FILES = ("report.html", "report.md", "report.json")


def check_place(directory: Path) -> None:
    """Checks, before long work, that a report can be written to a directory.

    Raises:
        ValueError: It can't be written to, or holds files of the same names that are no report of ours.
    """
    outputs.check_directory(directory)
    page = directory / _FILES[0]
    found = [name for name in _FILES if (directory / name).exists()]
    if found and not (page.is_file() and _GENERATOR in page.read_text(encoding="utf-8", errors="replace")):
        what = f"holds {', '.join(found)}, which vit-parity didn't write"
        raise ValueError(f"{directory}: {what}; choose another directory for the report, or remove it")


class Report:
    """Collects headings, text, tables and figures in order.

    Args:
        title: The first heading.
    """

    def __init__(self, title: str):
        self._title = title
        self._parts: list[str] = [f"# {title}"]
        self._figures: dict[str, Figure] = {}

    def heading(self, text: str) -> None:
        """Starts a section."""
        self._parts.append(f"## {text}")

    def text(self, markdown: str) -> None:
        """Adds a paragraph of Markdown."""
        self._parts.append(markdown)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Adds a table."""
        self._parts.append(markdown_table(header, rows))

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """Adds a picture; `name` becomes its file's name."""
        self._figures[f"{name}.png"] = figure
        self._parts.append(f"![{caption}]({name}.png)")

    def write(self, directory: Path) -> Path:
        """Writes `report.md`, `report.html` and the pictures; returns the path of the HTML file.

        Raises:
            ValueError: The same as from `check_place`.
        """
        from markdown_it import MarkdownIt

        check_place(directory)
        directory.mkdir(parents=True, exist_ok=True)
        pictures = {}
        for name, figure in self._figures.items():
            figure.savefig(directory / name, dpi=130, bbox_inches="tight")
            pictures[name] = base64.b64encode((directory / name).read_bytes()).decode()
        markdown = "\n\n".join(self._parts) + "\n"
        body = MarkdownIt().enable("table").render(markdown)
        body = re.sub(r'src="([^"]+)"', lambda match: f'src="data:image/png;base64,{pictures[match[1]]}"', body)
        page = (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_GENERATOR}\n'
            f"<title>{html.escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
        )
        # The page first: by it the others are known as ours.
        path = directory / "report.html"
        outputs.write_text(path, page)
        outputs.write_text(directory / "report.md", markdown)
        return path


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
