"""`parity.testing`, and the example of a model pair of one's own."""

from __future__ import annotations

from pathlib import Path

import foreign_models
import numpy as np
import pytest

from parity import configs
from parity.testing import assert_same_model
from parity.tolerances import USUAL_IN_FLOAT32

ROOT = Path(__file__).parents[2]
IMAGES = np.random.default_rng(2).standard_normal((2, 8, 12, 3))


class Outcomes:
    """A plugin that counts the outcomes of a session."""

    def __init__(self):
        self.calls = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.calls.append((report.nodeid.rpartition("::")[2].partition("[")[0], report.outcome))


def test_the_example():
    # In this process: another one would spend most of its time on loading both frameworks.
    outcomes = Outcomes()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT)]
    assert pytest.main([*options, str(ROOT / "examples")], plugins=[outcomes]) == 0
    assert set(outcomes.calls) == {("test_they_are_the_same", "passed"), ("test_a_mistake_is_named", "passed")}


def test_the_diagnosis_is_in_the_message():
    with pytest.raises(AssertionError) as raised:
        assert_same_model("torch:vit_test", configs.get("vit_test", norm_eps=1e-5))
    message = str(raised.value)
    assert "they part at blocks.0.norm1: relative L2" in message
    assert "cause: norm_eps: epsilon 1e-05 for 1e-06, everywhere" in message
    assert "norm_eps | epsilon 1e-08 for 1e-06 | blocks.0.norm1" in message  # what was tried beside it


def test_tolerance_and_precision():
    pair = ("torch:vit_test", configs.get("vit_test", norm_eps=1e-5))
    assert_same_model(*pair, tolerance=USUAL_IN_FLOAT32)
    # What this project exists for: no tolerance that is fit for float32 sees it.
    assert_same_model(*pair, dtype="float32")
    with pytest.raises(AssertionError, match="float64"):
        assert_same_model(*pair)
    with pytest.raises(AssertionError, match="float32"):
        assert_same_model("torch:vit_test", configs.get("vit_test", act="gelu_tanh"), dtype="float32")


def test_levels():
    def other_middle(images):
        output, places = foreign_models.with_numpy(images)
        return output, {**places, "hidden": places["hidden"] + 1}

    assert_same_model(foreign_models.with_numpy, other_middle, IMAGES)
    with pytest.raises(AssertionError, match="they part at hidden"):
        assert_same_model(foreign_models.with_numpy, other_middle, IMAGES, level="layers")
    with pytest.raises(ValueError, match="level: got 'gradients', expected one of forward, layers"):
        assert_same_model("vit_test", "vit_test", level="gradients")  # type: ignore[arg-type]
