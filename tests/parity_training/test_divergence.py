"""Float32 training parts no faster across frameworks than within one whose sums are taken in another order."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.divergence import ACROSS, measure_divergence, ratios
from parity import recipes
from parity.checks.runs import TorchRun
from parity.recipes import Recipe
from parity.tolerances import DIVERGENCE


@pytest.fixture
def recipe() -> Recipe:
    """The digits without what ties random numbers to rows, which the recipe leaves out anyway; docs do 1,000 steps."""
    optimizer = dataclasses.replace(recipes.get("digits").optimizer, warmup_steps=10)
    return recipes.get("digits", overrides={"depth": 1}, steps=25, optimizer=optimizer, initialization="moco")


def test_frameworks_part_no_faster_than_one_from_itself(recipe):
    found = measure_divergence(recipe)
    assert all(value <= DIVERGENCE.limit for value in ratios(found).values()), ratios(found)
    # They do part: equal runs would show nothing.
    for runs in found.values():
        assert runs.parameters[-1] > 10 * runs.parameters[2] > 0
    assert found[ACROSS].loss.shape == (25,)


def other_eps(run: TorchRun) -> None:
    for block in run.trainer.model.blocks:
        block.norm1.eps = block.norm2.eps = 1e-5


def test_an_epsilon_makes_them_part_faster(recipe):
    found = ratios(measure_divergence(recipe, plant=other_eps))
    assert found["loss"] > DIVERGENCE.limit, found


def test_what_belongs_to_rows_is_refused(recipe):
    with pytest.raises(ValueError, match=r"drop_path_rate: got 0\.1, expected 0"):
        measure_divergence(dataclasses.replace(recipe, drop_path_rate=0.1))
    mixed = dataclasses.replace(recipe.data.augmentation, mixup=0.8)
    with pytest.raises(ValueError, match="neither mixup nor cutmix"):
        measure_divergence(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augmentation=mixed)))
