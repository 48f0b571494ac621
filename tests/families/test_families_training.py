"""The two families train on every mesh and go on in the other framework, and the house's tests take them as they are.

Beside `test_families_checks.py`, which has the levels of proof; a sweep, for it takes minutes.
"""

from __future__ import annotations

import re

import pytest
from overlay_tree import FAMILIES

from parity.tolerances import TRAINING_LOSS, TRAINING_STATE

pytestmark = pytest.mark.sweep


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_every_mesh_is_that_on_one_device(meshes, family):
    for mesh, apart in meshes[family]["apart"].items():
        assert apart["curves"][0] <= TRAINING_LOSS["float64"].limit, (mesh, apart)
        assert apart["state"][0] <= TRAINING_STATE["float64"].limit, (mesh, apart)
    # The meshes did split something, and statistics moved.
    split = meshes[family]["split"]
    assert {mesh: number > 5 for mesh, number in split.items()} == {mesh: "fsdp" in mesh for mesh in split}
    assert len(split) == 3
    assert len(meshes[family]["statistics"]) == (10 if family == "toy_pyramid" else 0)


@pytest.mark.parametrize("first", ["flax", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_goes_on_in_the_other_framework(training, family, first):
    found = training[family][first]
    assert found["steps"] == [4, 2]
    assert found["kinds"] == ["params", "ema", "mu", "nu"]
    assert found["lacking"] == []
    assert max(found["apart"].values()) <= TRAINING_STATE["float64"].limit, found["apart"]
    moved, whole = found["losses"]
    assert len(set(whole)) == 4
    assert moved == pytest.approx(whole, rel=TRAINING_LOSS["float64"].limit)


@pytest.mark.parametrize("first", ["flax", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_run_leaves_is_a_checkpoint(training, family, first):
    found = training[family][first]["exported"]
    assert found["name"] == family
    assert found["differ"] == []
    assert len(found["statistics"]) == (10 if family == "toy_pyramid" else 0)


def test_the_tests_over_the_registry_need_no_edit(over_the_registry):
    """Those of the contracts and of parity, as they are, in the copy."""
    code, output = over_the_registry
    assert code == 0, output[-4000:]
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) > 40
