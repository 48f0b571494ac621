"""Two families that the house doesn't have are added by touching only what CONTRIBUTING names, and nothing is missing.

`overlay/` holds them: a pyramid with BatchNorm, whose features are a map, and two towers, of images and of texts.
"""

from __future__ import annotations

import filecmp
import re
from pathlib import Path

from overlay_tree import FAMILIES, LINES, OBJECTIVE_LINES, OVERLAY, PACKAGES, ROOT, lay_over

from parity.configs.registry import FAMILIES as FAMILIES_OF_OURS

# What the objective of the towers touches besides.
OBJECTIVE = {
    "parity/recipes/objectives.py",
    *(f"{package}/objectives/{name}.py" for package in ("vit_jax", "vit_torch") for name in ("toy_pairs", "__init__")),
}


def section(title: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def files_named(text: str) -> set[str]:
    """Files that the list of a section names, those of a family for each of ours."""
    named = text.split("\n```\n")[1].split()
    return {name.replace("<family>", family) for name in named for family in FAMILIES}


def files(directory: Path) -> set[str]:
    found = (file for package in PACKAGES for file in (directory / package).rglob("*.py"))
    return {file.relative_to(directory).as_posix() for file in found}


def touched(tree: Path) -> set[str]:
    """What differs from the packages as they are."""
    ours, theirs = files(ROOT), files(tree)
    assert ours <= theirs
    return {name for name in theirs if name not in ours or not filecmp.cmp(ROOT / name, tree / name, shallow=False)}


def test_what_is_touched_is_what_contributing_names(tree):
    """Of the families, and of the objective that trains the towers."""
    assert touched(tree) == files_named(section("Add a model")) | OBJECTIVE
    text = section("Add an objective")
    registries = OBJECTIVE & set(OBJECTIVE_LINES)
    assert all(f"`{name}`" in text for name in registries)
    assert all(f"`{name.rpartition('/')[0]}/`" in text for name in OBJECTIVE - registries)


def test_a_registry_gets_the_family_and_nothing_else():
    for name, changes in LINES.items():
        for old, new in changes:
            before, after = (set(re.findall(r"\w+", text)) for text in (old, new))
            assert before <= after, name
            assert all("toy" in word.lower() for word in after - before - {"import", "from"}), name
    assert {name for name in touched_by_overlay() if (ROOT / name).exists()} == set()


def touched_by_overlay() -> set[str]:
    return {file.relative_to(OVERLAY).as_posix() for file in OVERLAY.rglob("*.py")}


def test_a_file_more_is_noticed(tmp_path):
    tree = lay_over(tmp_path / "tree")
    (tree / "parity" / "checks" / "toy.py").write_text("")
    registry = tree / "vit_jax" / "state_dict.py"
    registry.write_text(registry.read_text() + "\n")
    extra = touched(tree) - files_named(section("Add a model")) - OBJECTIVE
    assert extra == {"parity/checks/toy.py", "vit_jax/state_dict.py"}


def test_no_code_of_the_house_asks_for_a_family():
    """Nor does it know the toys; formats of other projects have families of their own."""
    asks = re.compile(rf"[!=]= *[\"'](?:{'|'.join(FAMILIES_OF_OURS)})[\"']")
    for name in files(ROOT):
        text = (ROOT / name).read_text()
        assert "toy" not in re.findall(r"[a-z]+", text.lower()), name
        assert name.startswith("parity/checkpoints/formats/") or not asks.search(text), name
    assert asks.search('if family(config) == "vit":')


def test_the_flat_vit_is_known_to_its_own_files_alone():
    """And to formats of other projects, which have no other family yet."""
    own = (
        r"configs/(vit|stem|registry|__init__)|shapes/vit|models/(vit|__init__)"
        r"|checkpoints/(formats/|assumed)|diagnosis/wrong_vit"
    )
    known = {name for name in files(ROOT) if re.search(r"\b(?:VitConfig|from \S*\.vit )", (ROOT / name).read_text())}
    assert {name for name in known if not re.search(own, name)} == set()
