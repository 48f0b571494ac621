"""Two families that the house doesn't have are added by touching only what CONTRIBUTING names, and nothing is missing.

`overlay/` holds them: a pyramid with BatchNorm, whose features are a map, and two towers, of images and of texts.
"""

from __future__ import annotations

import filecmp
import re
from pathlib import Path

import pytest
from overlay_tree import FAMILIES, LINES, OBJECTIVE_LINES, OVERLAY, PACKAGES, ROOT, lay_over

from parity.configs.registry import FAMILIES as FAMILIES_OF_OURS

PRECISIONS = ["float64", "float32", "bfloat16"]
LEVELS = ["forward", "layers", "gradients", "training"]
STATISTICS = ("running_mean", "running_var")


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


def test_the_copy_is_what_ran(checks, tree):
    assert all(Path(file).is_relative_to(tree) for file in checks["packages"])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_level_in_every_precision(checks, family, level):
    """As `vit-parity check` says it."""
    found = checks[family]["commands"]["levels"][level]
    assert found["passed"], found["failures"]
    assert [one["dtype"] for one in found["precisions"]] == (PRECISIONS if level != "training" else PRECISIONS[::2])


@pytest.mark.parametrize("family", FAMILIES)
def test_scanned_and_recomputed_blocks(checks, family):
    found = checks[family]["levels"]["scanned"]
    assert found["passed"], found["failures"]


def places(checks, family, level) -> dict[str, list[str]]:
    """Names of what a level compared, by its parts."""
    first = checks[family]["commands"]["levels"][level]["precisions"][0]
    return {part["name"]: [one["name"] for one in part["places"]] for part in first["parts"]}


def test_what_is_compared(checks):
    assert places(checks, "toy_pyramid", "forward")["outputs"] == [
        *("stem", "stages.0", "stages.1", "blocks.0"),
        *("forward_features", "logits"),
    ]
    assert places(checks, "toy_towers", "forward")["outputs"] == [
        *("visual.blocks.0", "visual.blocks.1", "text.blocks.0"),
        *("image_features", "text_features", "logits_per_image"),
    ]
    # Images are differentiated, token ids aren't; statistics only are where there are any.
    towers, pyramid = (places(checks, family, "gradients") for family in ("toy_towers", "toy_pyramid"))
    assert list(towers) == ["outputs", "gradients"]
    assert {"images", "logit_scale", "text.token_embed.weight"} <= set(towers["gradients"])
    assert "tokens" not in towers["gradients"]
    assert list(pyramid) == ["outputs", "gradients", "outputs_in_training", "gradients_in_training", "statistics"]
    assert len(pyramid["statistics"]) == 2 * 5
    assert not any(name.endswith(STATISTICS) for name in pyramid["gradients_in_training"])
    assert "images" in pyramid["gradients_in_training"]
    state = ["loss", "grad_norm", "parameters", "mu", "nu", "ema"]
    assert list(places(checks, "toy_towers", "training")) == state
    assert list(places(checks, "toy_pyramid", "training")) == [*state, "statistics"]
    # Inside of modules, where maps are in either layout and what is called isn't the model alone.
    assert {"stages.0.down.conv", "blocks.0.attn.proj:input"} <= set(places(checks, "toy_pyramid", "layers")["layers"])
    assert {"text.token_embed", "visual.blocks.1.mlp.fc1"} <= set(places(checks, "toy_towers", "layers")["layers"])


def test_masks_are_the_same(checks):
    found = checks["toy_pyramid"]["levels"]["stochastic"]
    assert found["passed"], found["failures"]


@pytest.mark.parametrize(
    ("family", "level", "place"),
    [
        ("toy_pyramid", "planted", "outputs: first divergence at blocks.0"),
        ("toy_towers", "planted", "outputs: first divergence at text.blocks.0"),
        ("toy_pyramid", "planted_statistic", "statistics: first divergence at stem.norm.running_mean"),
    ],
)
def test_a_planted_error_is_found(checks, family, level, place):
    found = checks[family]["levels"][level]
    assert not found["passed"]
    assert place in found["failures"][0]


def test_a_family_without_statistics_has_none_planted(checks):
    assert checks["toy_towers"]["levels"]["planted_statistic"]["passed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints_go_through_both_frameworks(checks, family):
    found = checks[family]["files"]
    assert found["changed"] == found["lone"] == []
    assert found["config"]
    assert found["name"] == family
    assert found["modes"] == [False, False]
    assert found["larger"] == []
    assert found["resized"] == ([] if family == "toy_pyramid" else ["visual.pos_embed"])


@pytest.mark.parametrize("family", FAMILIES)
def test_commands(checks, family):
    found = checks[family]["commands"]
    assert [found[name]["code"] for name in ("models", "info", "info_path", "check", "train")] == [0] * 5, found
    assert family in found["models"]["out"]
    assert "0." in found["models"]["out"]
    for name in ("info", "info_path"):
        assert re.search(rf"family +{family}", found[name]["out"]), found[name]
    assert "passed" in found["check"]["out"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_format_without_the_family_says_so(checks, family):
    found = checks[family]["commands"]["convert"]
    assert found["code"] != 0
    assert re.search(rf"to: got 'timm', which has no models of family '{family}'; expected .*native", found["err"]), (
        found
    )
