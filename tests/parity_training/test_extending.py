"""A finished run that goes on with more steps, and one whose parameters alone are taken."""

from __future__ import annotations

import dataclasses
import json
from io import StringIO
from pathlib import Path

import pytest
from fine_tuning import (
    FRAMEWORKS,
    constant,
    contents,
    losses,
    make_folder,
    recipe_of,
    train,
    write_native,
)
from rich.console import Console
from training_runs import assert_same_losses, assert_same_state

from parity.bridge import read_training
from parity.compare import compare
from parity.recipes import learning_rate, starting_from
from parity.runs.metrics import read_metrics
from parity.tolerances import TRAINING_STATE

both = pytest.mark.parametrize("framework", FRAMEWORKS)
FIRST, LAST = 6, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "textures")


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    """Of one learning rate, from a checkpoint."""
    return constant(recipe_of(folder, write_native(tmp_path_factory.mktemp("source") / "native"), steps=FIRST))


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory) -> dict[str, Path]:
    """By framework, the short run; and the same run to the end, which was never interrupted."""
    directory = tmp_path_factory.mktemp("runs")
    found = {name: train(name, recipe, directory / name) for name in FRAMEWORKS}
    return found | {"whole": train("torch", dataclasses.replace(recipe, steps=LAST), directory / "whole")}


@pytest.mark.parametrize(
    ("first", "then"), [("flax", "flax"), ("torch", "torch"), ("flax", "torch"), ("torch", "flax")]
)
def test_more_steps_end_where_the_uninterrupted_run_ends(first, then, recipe, runs, tmp_path):
    """Whichever framework goes on, at one learning rate; the finished run stays as it was."""
    before = contents(runs[first])
    longer = dataclasses.replace(starting_from(recipe, str(runs[first])), image_size=None, steps=LAST)
    train(then, longer, tmp_path / "longer")
    assert_same_losses(losses(tmp_path / "longer"), losses(runs["whole"]))
    assert_same_state(tmp_path / "longer", runs["whole"])
    assert contents(runs[first]) == before
    record = json.loads((tmp_path / "longer" / "init.json").read_text())["source"]
    assert (record["step"], record["goes_on"], record["differs"]) == (FIRST, True, [])


def test_the_schedule_is_that_of_the_new_number_of_steps(folder, tmp_path):
    """From the first step that the longer run makes."""
    recipe = recipe_of(folder, write_native(tmp_path / "native"), steps=FIRST)
    run = train("torch", recipe, tmp_path / "run")
    longer = dataclasses.replace(recipe, init_from=str(run), steps=LAST)
    train("torch", longer, tmp_path / "longer")
    lines = [line for line in read_metrics(tmp_path / "longer") if "train/learning_rate" in line]
    whole = dataclasses.replace(recipe, steps=LAST)
    for line in lines:
        of = recipe if line["step"] <= FIRST else whole
        expected = learning_rate(int(line["step"]) - 1, of.optimizer, of.steps)
        assert line["train/learning_rate"] == pytest.approx(expected, rel=TRAINING_STATE["float64"].limit)
    assert [line["step"] for line in lines] == list(range(1, LAST + 1))


@both
def test_another_recipe_takes_the_parameters_alone(framework, recipe, runs, tmp_path):
    other = dataclasses.replace(starting_from(recipe, str(runs[framework])), image_size=None, label_smoothing=0.0)
    train(framework, other, tmp_path / "run", stop_at=0)
    began, ended = read_training(tmp_path / "run"), read_training(runs[framework])
    assert (began.step, began.data["step"]) == (0, 0)
    assert compare(began.params, ended.params).ok(TRAINING_STATE["float64"].limit)
    assert not any(moment.any() for kind in began.moments.values() for moment in kind.values())
    record = json.loads((tmp_path / "run" / "init.json").read_text())["source"]
    assert (record["step"], record["goes_on"]) == (FIRST, False)
    assert record["differs"] == ["label_smoothing: 0.05 there, 0.0 here"]
    assert record["new"] == record["resized"] == []


def test_a_longer_run_that_was_stopped_goes_on(recipe, runs, tmp_path):
    longer = dataclasses.replace(recipe, init_from=str(runs["torch"]), steps=LAST)
    train("torch", longer, tmp_path / "longer", stop_at=FIRST + 4)
    train("torch", longer, tmp_path / "longer")
    assert_same_losses(losses(tmp_path / "longer"), losses(runs["whole"]))
    assert_same_state(tmp_path / "longer", runs["whole"])


@both
def test_it_says_which_of_the_two_happened(framework, recipe, runs, tmp_path):
    changes = {"goes": {"steps": LAST}, "starts": {"label_smoothing": 0.0}}
    for name, fields in changes.items():
        written = StringIO()
        new = dataclasses.replace(recipe, init_from=str(runs[framework]), **fields)
        train(framework, new, tmp_path / name, stop_at=0, console=Console(file=written))
        first = " ".join(written.getvalue().split())
        if name == "goes":
            told = f"goes on with {runs[framework]} after step {FIRST}, to step {LAST}: parameters, optimiser, average"
        else:
            told = f"starts from the parameters alone of {runs[framework]} after step {FIRST}: 32 tensors of a run"
            assert "optimiser and step are new, for this isn't the same run: label_smoothing: 0.05 there" in first
        assert told in first
