"""A run says itself what its model is and how its arrays are laid out, so that it is read without that model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from run_states import RECIPES, differing, random_state

from parity import configs
from parity.bridge import read_training, write_training
from parity.checkpoints import CheckpointError, open_checkpoint, parameter_shapes
from parity.checkpoints.formats import run
from parity.checkpoints.formats.run import FRAMEWORKS, RunModel
from parity.checkpoints.leaf import Leaf
from parity.compare import not_identical
from parity.runs.directory import claim
from vit_jax.models import create_model
from vit_jax.run_checkpoints import RunDirectory
from vit_jax.state_dict import named_leaves

STATE = random_state(RECIPES["sgd_everything"])
both = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each framework, with the same state."""
    directory = tmp_path_factory.mktemp("runs")
    for framework in FRAMEWORKS:
        write_training(STATE, directory / framework, to=framework)
    return directory


def copied(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(path, tmp_path / "run"))


def rewritten(directory: Path, **fields) -> None:
    file = directory / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@both
def test_what_a_run_says(framework, runs):
    said = json.loads((runs / framework / "model.json").read_text())
    assert (said["name"], configs.from_dict(said["config"])) == ("vit_digits", STATE.config())
    if framework == "torch":
        assert "layouts" not in said
        return
    assert said["layouts"].keys() == STATE.params.keys()
    kinds = {"patch_embed.proj.weight": "h w i o -> o i h w", "head.weight": "i o -> o i", "head.bias": "o -> o"}
    assert said["layouts"].items() >= kinds.items()


def test_the_arrays_are_laid_out_as_the_run_says(runs, tmp_path):
    """Not as a model of the code would have them: here one of them is said to be kept as it is."""
    directory = copied(runs / "flax", tmp_path)
    layouts = json.loads((directory / "model.json").read_text())["layouts"]
    rewritten(directory, layouts=layouts | {"blocks.0.attn.proj.weight": "o i -> o i"})
    tensors = open_checkpoint(directory).tensors
    assert np.array_equal(tensors["blocks.0.attn.proj.weight"], STATE.params["blocks.0.attn.proj.weight"].T)
    read = read_training(directory)
    assert differing(STATE, read) == [f"{part}.blocks.0.attn.proj.weight" for part in ("params", "trace", "ema")]


@both
def test_it_is_read_without_the_framework_that_trained_it(framework, runs):
    absent = ("vit_torch", "vit_jax", *(["torch", "jax", "orbax"] if framework == "torch" else []))
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        "from parity.checkpoints import open_checkpoint\nfrom parity.bridge import read_training\n"
        f"path = {str(runs / framework)!r}\n"
        "print(len(read_training(path).moments['trace']), len(dict(open_checkpoint(path).tensors)))\n"
        "print(sys.modules.get('torch'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [*[str(len(STATE.params))] * 2, "None"], done.stderr


@both
@pytest.mark.parametrize("name", ["adamw_everything", "sgd_without_momentum"])
def test_a_run_of_an_earlier_version(framework, name, tmp_path):
    """Earlier versions wrote no `model.json`; nothing else was different."""
    state = random_state(RECIPES[name])
    write_training(state, tmp_path / "run", to=framework)
    (tmp_path / "run" / "model.json").unlink()
    assert differing(state, read_training(tmp_path / "run")) == []
    found = open_checkpoint(tmp_path / "run")
    assert (found.config, found.name) == (state.config(), "vit_digits")
    assert found.tensors.shapes() == parameter_shapes(state.config())
    assert not_identical(dict(found.tensors), dict(state.params)) == ()


# Each way in which flat ViTs differ in their tensors.
FLAT = (
    "vit_digits",
    "vit_base_patch16_clip_224",
    "vit_so400m_patch14_siglip_224",
    "vit_large_patch14_dinov2",
    "deit3_base_patch16_224",
    "deit_base_distilled_patch16_224",
    "beit_base_patch16_224",
    "eva02_base_patch14_224",
)


@pytest.mark.parametrize("name", FLAT)
def test_the_layouts_of_an_earlier_version_are_those_of_the_layers(name):
    config = configs.get(name).shortened(1)
    model = nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0)))
    shapes = parameter_shapes(config)
    kept = {leaf: variable.shape for leaf, variable, _, _ in named_leaves(model)}
    rng = np.random.default_rng(0)
    for leaf, _, rule, _ in named_leaves(model):
        value = rng.uniform(size=kept[leaf])
        found = Leaf(leaf, run._layout(leaf, shapes[leaf])).to_canonical(value)
        assert np.array_equal(found, rule.to_canonical(value)), leaf


def test_resuming_describes_a_run_of_an_earlier_version(runs, tmp_path):
    directory = copied(runs / "flax", tmp_path)
    said = (directory / "model.json").read_text()
    (directory / "model.json").unlink()
    with RunDirectory(directory, STATE.recipe, STATE.config(), resume=True):
        pass
    assert (directory / "model.json").read_text() == said


def test_a_description_stays_with_the_checkpoints_that_it_is_of(runs, tmp_path):
    directory = copied(runs / "torch", tmp_path)
    said = (directory / "model.json").read_text()
    other = STATE.recipe.config(7)
    claim(directory, STATE.recipe, other)
    assert (directory / "model.json").read_text() == said
    shutil.rmtree(directory / "checkpoints")
    claim(directory, STATE.recipe, other)
    assert configs.from_dict(json.loads((directory / "model.json").read_text())["config"]) == other


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"config": {"family": "vti"}}, "family: got 'vti'"),
        ({"config": None}, "config: got NoneType, expected an object"),
        ({"layouts": {"head.weight": "i o -> i"}}, "layouts: head.weight: got 'i o -> i', expected one such as"),
        ({"layouts": {"head.weight": "(i o) -> o i"}}, "layouts: head.weight: got"),
        ({"layouts": {"head.weight": 3}}, "layouts: head.weight: got 3"),
        ({"layouts": "none"}, "doesn't say what model the run trains"),
    ],
)
def test_a_description_that_is_not_sound(fields, expected, runs, tmp_path):
    """And the advice works."""
    directory = copied(runs / "flax", tmp_path)
    rewritten(directory, **fields)
    for read in (open_checkpoint, read_training):
        with pytest.raises(CheckpointError, match=expected) as caught:
            read(directory)
        assert str(directory / "model.json") in str(caught.value)
    assert "remove it, and resuming the run writes it again" in str(caught.value)
    (directory / "model.json").unlink()
    assert differing(STATE, read_training(directory)) == []


def test_a_layout_of_other_axes_than_the_array_has(runs, tmp_path):
    directory = copied(runs / "flax", tmp_path)
    rewritten(directory, layouts={"head.bias": "i o -> o i"})
    for read in (lambda: open_checkpoint(directory).tensors.shapes(), lambda: read_training(directory)):
        with pytest.raises(CheckpointError, match=r"head\.bias: got \[10\], and its layout is 'i o -> o i'"):
            read()


def test_a_model_without_layouts_keeps_arrays_as_they_are():
    value = np.arange(6).reshape(2, 3)
    assert RunModel(config=STATE.config(), name="").canonical("head.weight", value) is value
