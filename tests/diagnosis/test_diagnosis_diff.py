"""What `diff` takes: names, checkpoints, foreign models and functions; what it says; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import foreign_models
import numpy as np
import pytest
import torch
from torch import nn

from parity import checkpoints, configs
from parity.checkpoints import Checkpoint, adapt
from parity.checks import random_parameters
from parity.checks.twins import torch_model
from parity.cli import main
from parity.configs import Execution
from parity.diagnosis.diff import diff
from parity.diagnosis.hypotheses import CAUSES, propose
from parity.diagnosis.rounding import MATMULS, Rounded, to_mantissa

FOREIGN = f"{Path(foreign_models.__file__)}:"
IMAGES = np.random.default_rng(2).standard_normal((2, 8, 12, 3))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of `vit_test` with random parameters."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    config = configs.get("vit_test")
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed=1)
    checkpoints.write(path, config, {name: value.astype(np.float32) for name, value in tensors.items()})
    return path


def test_functions_of_every_framework_agree():
    names = ["with_numpy", "with_jax", "with_torch"]
    for left, right in zip(names, names[1:] + names[:1], strict=True):
        report = diff(FOREIGN + left, FOREIGN + right, IMAGES)
        assert report.passed, report.lines
        assert report.dtype == "float64"
    # A function itself, and the intermediates that only values can bring together.
    report = diff(foreign_models.with_numpy, foreign_models.with_jax, IMAGES)
    assert [found.name for found in report.comparison.differences] == ["hidden = their_hidden", "output"]
    assert report.comparison.only_left == ("act",)


def test_functions_that_part():
    report = diff(foreign_models.with_numpy, foreign_models.with_jax_at_another_scale, IMAGES)
    assert (report.place.left, report.place.right) == ("act", "their_act")
    assert report.place.before == ("hidden", "their_hidden")
    assert report.verdict is None
    assert "cause: nothing was tried" in report.lines


def test_the_layout_of_a_function():
    def channels_first(images):
        return foreign_models.with_numpy(images.transpose(0, 2, 3, 1))

    assert diff(foreign_models.with_numpy, channels_first, IMAGES, layouts=(None, "NCHW")).passed


def test_what_cannot_run_in_float64_is_compared_in_float32():
    report = diff(foreign_models.with_numpy, foreign_models.in_float32_alone, IMAGES)
    assert report.dtype == "float32"
    assert report.passed, report.lines
    assert "RuntimeError: expected float32" in report.notes[0]


def test_a_function_that_makes_a_model_and_generic_hypotheses():
    model = foreign_models.make_model()
    report = diff(FOREIGN + "make_model", model, IMAGES)
    assert report.passed, report.lines
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.flip(1))
    report = diff(FOREIGN + "make_model", model, IMAGES)
    assert (report.place.left, report.verdict.trial.cause) == ("0", "kernel_layout")
    assert "channels of the images reversed" in report.verdict.trial.text


def test_a_name_takes_the_parameters_of_the_other_side(checkpoint):
    assert diff(checkpoint, "vit_test").passed
    assert diff("torch:vit_test", f"torch:{checkpoint}").passed
    with pytest.raises(ValueError, match=r"(?s)parameters of .*model in vit_test_dist: .*missing dist_token"):
        diff("vit_test_dist", checkpoint)


def test_positions_resized_by_another_kernel(checkpoint):
    images = np.random.default_rng(3).standard_normal((1, 16, 24, 3))
    other = configs.get("vit_test", image_size=(16, 24))
    stored = checkpoints.open_checkpoint(checkpoint)
    resized = adapt(
        Checkpoint(stored.path, configs.replace(stored.config, pos_embed_resize="bilinear"), "", {}, stored.tensors),
        image_size=(16, 24),
    )[1]
    model = torch_model(other, {name: np.asarray(value) for name, value in resized.items()}, Execution(), None)[0]
    report = diff(f"torch:{checkpoint}", model, images, image_size=(16, 24))
    assert report.place.left == "blocks.0:input"
    assert report.verdict.trial.cause == "resize_kernel"
    assert report.verdict.trial.text == "positions resized by bilinear for bicubic_antialias"


def test_images_normalised_once_more():
    model = foreign_models.make_model()
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            return self.inner((images - mean[0]) / std[0])

    report = diff(model, Normalised(), IMAGES)
    assert report.place.left == "0"
    assert report.verdict.trial.cause == "normalisation"
    assert report.verdict.trial.text == "normalised once more (Inception)"


def test_models_with_outputs_of_other_sizes():
    longer = nn.Sequential(*foreign_models.make_model(), nn.Linear(6, 4)).eval()
    report = diff(foreign_models.make_model(), longer, IMAGES, diagnose=False)
    assert not report.passed
    assert report.output is None
    assert "shapes [2, 6] and [2, 4]" in "\n".join(report.lines)


def test_hypotheses_name_their_causes():
    model = foreign_models.make_model()
    found = propose(model, ["0", "2"], images=True)
    assert {h.cause for h in found} <= {*CAUSES, "normalisation"}
    assert {"kernel_layout", "bias", "matmul_precision", "padding", "normalisation"} <= {h.cause for h in found}
    assert len({(h.text, h.path) for h in found}) == len(found)


def test_rounding_is_that_of_the_hardware():
    x = torch.randn(1000, dtype=torch.float64).float()
    torch.testing.assert_close(to_mantissa(7)(x), x.bfloat16().float(), rtol=0, atol=0)
    torch.testing.assert_close(to_mantissa(23)(x.double()), x.double(), rtol=0, atol=0)
    weight = torch.randn(3, 1000)
    with Rounded(MATMULS, to_mantissa(7)):
        product = nn.functional.linear(x, weight)
    assert torch.equal(product, nn.functional.linear(x.bfloat16().float(), weight.bfloat16().float()))
    assert not torch.equal(product, nn.functional.linear(x, weight))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vit_tset", "did you mean 'vit_test'"),
        ("no_such_module_here:model", "No module named 'no_such_module_here'"),
        ("no_such_file.py:model", "no file no_such_file.py"),
        (FOREIGN + "make_modle", "did you mean 'make_model'"),
        (FOREIGN + "not_callable", "got int, expected a model or a function of images"),
        ("numpy:vit_test", "got the framework 'numpy'"),
    ],
)
def test_what_is_no_model(given, message):
    with pytest.raises(ValueError, match=message):
        diff(given, "vit_test")


def test_errors_name_what_was_wrong():
    with pytest.raises(ValueError, match="dtypes: got 'float16', expected of float64, float32, bfloat16"):
        diff("vit_test", "vit_test", dtype="float16")
    with pytest.raises(ValueError, match=r"has no parameters, and .* none to share"):
        diff("vit_test", foreign_models.with_numpy)
    with pytest.raises(ValueError, match="output: got no array from the function"):
        diff(foreign_models.with_numpy, lambda images: "nothing", IMAGES)


def test_the_command(tmp_path, capsys, checkpoint):
    other = tmp_path / "other"
    stored = checkpoints.open_checkpoint(checkpoint)
    checkpoints.write(other, configs.replace(stored.config, norm_eps=1e-5), stored.tensors)
    files = ["--json", str(tmp_path / "diff.json"), "--markdown", str(tmp_path / "diff.md")]
    with pytest.raises(SystemExit) as stop:
        main(["diff", f"torch:{checkpoint}", f"torch:{other}", *files])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "diff.json").read_text())
    text = (tmp_path / "diff.md").read_text()
    assert data["passed"] is False
    assert data["place"]["left"] == "blocks.0.norm1"
    assert data["verdict"]["everywhere"] is True
    for line in data["lines"]:
        assert f"- {line}" in text
        assert "".join(line.split()) in "".join(shown.split())
    assert "| norm_eps | epsilon 1e-05 for 1e-06 | blocks.0.norm1 | 0.0e+00 |" in text
    with pytest.raises(SystemExit) as stop:
        main(["diff", f"torch:{checkpoint}", "torch:vit_test"])
    assert stop.value.code == 0
