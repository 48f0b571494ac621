"""Recipes: names, JSON, errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from parity import recipes
from parity.configs import Preprocessing


@pytest.mark.parametrize("name", recipes.names())
def test_json_round_trip(name):
    recipe = recipes.get(name)
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe)))) == recipe


@pytest.mark.parametrize("name", recipes.names())
def test_the_docstring_gives_command_cost_and_result(name):
    module = sys.modules[f"parity.recipes.{name}"]
    assert f"vit-parity train {name}" in module.__doc__
    assert "Cost:" in module.__doc__
    assert "Result:" in module.__doc__


def test_the_seed_recipe_is_the_article():
    recipe = recipes.get("imagenet_seed")
    got = recipe.optimizer.learning_rate, recipe.optimizer.weight_decay, recipe.optimizer.warmup_steps
    assert (*got, recipe.steps, recipe.batch_size) == (3e-4, 0.05, 10_000, 100_000, 512)


def test_a_model_of_one_channel_is_normalised_by_one_mean():
    recipe = recipes.get("imagenet_seed", overrides={"in_chans": 1})
    assert recipe.config().preprocessing == recipes.get("imagenet_seed").config().preprocessing.grey()
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe)))) == recipe
    given = Preprocessing(mean=(0.25,), std=(0.5,))
    recipe = recipes.get("imagenet_seed", overrides={"in_chans": 1, "preprocessing": given})
    assert recipe.config().preprocessing == given


def test_runs_of_before_there_were_folder_options_go_on():
    recipe = recipes.get("digits")
    data = recipes.to_dict(recipe)
    del data["data"]["folder"]
    assert recipes.from_dict(data) == recipe
    data["data"]["folder"] = {"exif_orientation": True, "class_order": "natural"}
    changed = [
        "data.folder.class_order: None there, 'natural' here",
        "data.folder.exif_orientation: False there, True here",
    ]
    assert recipes.differences(recipe, recipes.from_dict(data)) == changed
    data["data"]["folder"] = {"exif": True}
    with pytest.raises(ValueError, match=r"^data\.folder: unknown field 'exif'"):
        recipes.from_dict(data)


def test_errors_name_the_field_and_a_close_match():
    with pytest.raises(ValueError, match="unknown recipe 'digit'; did you mean 'digits'"):
        recipes.get("digit")
    with pytest.raises(ValueError, match="'batchsize'; did you mean 'batch_size'"):
        recipes.get("digits", batchsize=3)
    with pytest.raises(ValueError, match="'dept'; did you mean 'depth'"):
        recipes.get("digits", overrides={"dept": 3})
    with pytest.raises(ValueError, match="warmup_steps: got 50, expected at most steps 10"):
        recipes.get("digits", steps=10)
    with pytest.raises(ValueError, match="precision: got 'float16'"):
        recipes.get("digits", precision="float16")
    data = recipes.to_dict(recipes.get("digits"))
    data["optimizer"]["lr"] = 1.0
    with pytest.raises(ValueError, match="optimizer: unknown field 'lr'"):
        recipes.from_dict(data)
    del data["optimizer"], data["steps"]
    with pytest.raises(ValueError, match="steps"):
        recipes.from_dict(data)


def test_a_run_may_be_carried_out_in_another_way():
    recipe = recipes.get("digits")
    other = dataclasses.replace(
        recipe,
        mesh=recipes.MeshShape(fsdp=2),
        log_every=3,
        data=dataclasses.replace(recipe.data, num_threads=4),
    )
    assert recipes.differences(recipe, other) == []
    other = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, name="mnist"), overrides={"depth": 3})
    changed = [line.partition(":")[0] for line in recipes.differences(recipe, other)]
    assert changed == ["data.name", "overrides.depth"]


def test_recipes_load_neither_a_framework_nor_numpy():
    code = "import sys, parity.recipes; print([m for m in ('jax', 'torch', 'numpy', 'flax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
