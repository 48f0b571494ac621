"""Every level of proof, checkpoints and commands take the two families as they are.

Beside `test_families.py`, which says what adding them touches; a sweep, for it takes minutes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from overlay_tree import FAMILIES

pytestmark = pytest.mark.sweep

PRECISIONS = ["float64", "float32", "bfloat16"]
FEWER = {"training": ["float64", "bfloat16"], "precision": ["bfloat16"]}
LEVELS = ["forward", "layers", "gradients", "training", "precision"]
STATISTICS = ("running_mean", "running_var")


def test_the_copy_is_what_ran(checks, tree):
    assert all(Path(file).is_relative_to(tree) for file in checks["packages"])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_level_in_every_precision(checks, family, level):
    """As `vit-parity check` says it."""
    found = checks[family]["commands"]["levels"][level]
    assert found["passed"], found["failures"]
    assert [one["dtype"] for one in found["precisions"]] == FEWER.get(level, PRECISIONS)


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
