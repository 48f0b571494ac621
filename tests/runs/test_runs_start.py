"""What a run can't start from is one line that says what was found, what was expected and what helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_states import RECIPES, random_state

from parity import checkpoints, configs, recipes
from parity.bridge import read_training, write_training
from parity.checkpoints import CheckpointError, parameter_shapes
from parity.data import Source
from parity.recipes import starting_from
from parity.runs.directory import check
from parity.runs.start import Start, begin

CONFIG = configs.get("vit_digits", image_size=(8, 12), patch_size=4, depth=1, embed_dim=12, num_heads=3, mlp_dim=20)
RECIPE = RECIPES["adamw_everything"]


class Images(Source):
    """Of four classes, none of which is read."""

    def __len__(self) -> int:
        return 40

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        raise AssertionError


DATA = Images(name="images", split="train", class_names=("a", "b", "c", "d"), in_chans=1)
DIGITS = dataclasses.replace(DATA, class_names=tuple("0123456789"))


def write(path: Path, **fields) -> Path:
    config = configs.replace(CONFIG, **fields)
    tensors = {name: np.full(shape, 0.5, np.float32) for name, shape in parameter_shapes(config).items()}
    checkpoints.write(path, config, tensors)
    return path


@pytest.fixture
def native(tmp_path) -> Path:
    return write(tmp_path / "native")


def record_of(found: Start) -> Mapping[str, Any]:
    assert found.origin is not None
    return found.origin.record


def start(path: Path, directory: Path | None = None, data: Source = DATA, **fields) -> Start:
    return begin(dataclasses.replace(starting_from(RECIPE, str(path)), **fields), data, directory)


def test_head_size_and_dropout_are_the_recipes(native):
    found = start(native, image_size=16, drop_rate=0.1)
    assert found.config == configs.replace(CONFIG, image_size=16, num_classes=4, drop_rate=0.1)
    assert record_of(found)["new"] == ["head.bias", "head.weight"]
    assert record_of(found)["resized"] == ["pos_embed"]
    assert found.tensors is not None
    assert found.tensors["pos_embed"].dtype == np.float64
    assert found.lines()[1:] == ["head: new, for 4 classes", "resized: pos_embed"]


def test_a_head_of_as_many_classes_stays_and_is_said(native):
    found = start(native, data=DIGITS)
    assert record_of(found)["new"] == []
    assert "head: that of the checkpoint" in found.lines()


def test_a_checkpoint_without_head_gets_one(tmp_path):
    found = start(write(tmp_path / "native", num_classes=0))
    assert found.tensors is not None
    assert found.tensors["head.weight"].shape == (4, 12)
    assert record_of(found)["new"] == ["head.bias", "head.weight"]


def test_the_digests_tell_files_apart(native, tmp_path):
    other = write(tmp_path / "other", act="gelu_tanh")
    one, two = (record_of(start(path)) for path in (native, other))
    same = [name for name in one["files"] if one["files"][name] == two["files"][name]]
    assert same == ["model.safetensors"]
    assert one["config_sha256"] != two["config_sha256"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_size": (8, 10)}, r"native: image_size: got \(8, 10\), expected multiples of patch_size \(4, 4\)"),
        ({"model": "vit_base_patch16_224"}, r"native: embed_dim: named model: 768, file: 12"),
        ({"init_options": {"num_heads": 4, "depht": 2}}, r"depht.*did you mean 'depth'"),
        ({"init_options": {"depth": 2}}, r"native: depth=2: the tensors don't go with it"),
    ],
)
def test_a_recipe_that_does_not_fit_the_checkpoint(native, fields, expected):
    with pytest.raises(ValueError, match=expected):
        start(native, **fields)


def test_a_model_that_does_not_pool_has_no_head(tmp_path):
    """And the advice works."""
    path = write(tmp_path / "native", num_classes=0, global_pool="none")
    with pytest.raises(ValueError, match=r"global_pool: got 'none'.*--set global_pool=avg"):
        start(path)
    assert start(path, init_options={"global_pool": "avg"}).config.global_pool == "avg"


def test_no_such_path(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such file"):
        start(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": ""}, "model: got none, expected a registered name, or init_from"),
        ({"init_options": {"num_heads": 3}}, "init_options: .*none without init_from"),
        (
            {"init_from": "x", "model": "", "overrides": {"depth": 2}},
            "overrides: got depth, expected image_size, patch_",
        ),
        ({"init_from": "x", "model": "vit_digit"}, "did you mean 'vit_digits'"),
    ],
)
def test_recipes_that_say_no_start(fields, expected):
    with pytest.raises(ValueError, match=expected):
        recipes.get("digits", **fields)


def test_a_recipe_and_its_options_go_into_json():
    recipe = starting_from(RECIPE, "x", model="vit_digits", image_size=(8, 12), ignore=("a.*", "b"))
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe
    assert recipe.init_options == {"image_size": (8, 12), "ignore": ("a.*", "b")}
    assert recipes.differences(recipe, dataclasses.replace(recipe, init_options={})) != []


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "run"
    write_training(random_state(RECIPE), directory, to="torch")
    return directory


def test_more_steps_go_on_and_as_many_do_not(run, tmp_path):
    found = start(run, tmp_path / "new", data=DIGITS, steps=6)
    assert (found.goes_on_from, found.tensors) == (run, None)
    assert len(found.metrics()) == 3
    with pytest.raises(ValueError, match=r"steps: got 3, and .*run has made 3; expected more$"):
        start(run, tmp_path / "new", data=DIGITS, steps=3)
    (run / "model").mkdir()
    with pytest.raises(ValueError, match=r"or its parameters alone: --init-from .*run/model"):
        start(run, tmp_path / "new", data=DIGITS, steps=3)
    (run / "model").rmdir()


def test_what_makes_it_another_run_is_said(run):
    found = start(run, steps=6, seed=1, init_options={"norm_eps": 1e-3})
    assert found.goes_on_from is None
    assert record_of(found)["differs"] == [
        "seed: 0 there, 1 here",
        "num_classes: 10 there, 4 here",
        "norm_eps: 1e-06 there, 0.001 here",
        "init_options: given here",
    ]
    assert "the parameters alone of" in found.lines()[0]


@pytest.mark.parametrize("inside", ["", "longer", "model/x"])
def test_a_run_does_not_go_on_in_its_own_directory(run, inside):
    recipe = starting_from(RECIPE, str(run))
    with pytest.raises(ValueError, match=r"init_from: got .*choose another directory"):
        check(run / inside, recipe, resume=True, framework="torch")
    check(run.parent / "longer", recipe, resume=True, framework="torch")


def test_a_run_that_lost_its_origin(native, tmp_path):
    """Its directory must say what the model is, for the source may be gone."""
    recipe = starting_from(RECIPE, str(native))
    found = begin(recipe, DIGITS)
    state = dataclasses.replace(random_state(recipe_like(found)), recipe=recipe, origin=found.origin)
    write_training(state, tmp_path / "run", to="torch")
    assert read_training(tmp_path / "run").config() == found.config
    assert checkpoints.open_checkpoint(tmp_path / "run").config == found.config
    file = tmp_path / "run" / "init.json"
    for text in ("", "[]", '{"name": "", "config": {}, "source": {}}'):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"run/init\.json: "):
            begin(recipe, DIGITS, tmp_path / "run")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"init\.json"):
        read_training(tmp_path / "run")


def recipe_like(found) -> recipes.Recipe:
    """A recipe of a model with the same tensors, for random ones."""
    overrides = {"image_size": (8, 12), "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 3, "mlp_dim": 20}
    return dataclasses.replace(found.recipe, init_from="", init_options={}, model="vit_digits", overrides=overrides)
