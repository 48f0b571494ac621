"""Layer parity, and what a report of any level says."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from benchmarks.plants import BLOCK, MODEL, PLANTS
from parity import configs
from parity.checks import CheckReport, Part, PrecisionReport, check_layers, to_json, write_document
from parity.compare import DECADES, magnitudes

# Next to the cause, which is more than the block that the forward level names.
FIRST = {
    "norm_eps": f"blocks.{BLOCK}.norm1",
    "gelu_kind": f"blocks.{BLOCK}.mlp.fc2:input",
    "swapped_q_and_k": f"blocks.{BLOCK}.attn.qkv",
    "transposed_kernel": f"blocks.{BLOCK}.attn.proj",
    "dropped_bias": f"blocks.{BLOCK}.mlp.fc2",
    "attention_scale": f"blocks.{BLOCK}.attn.proj:input",
    "float32_norm": f"blocks.{BLOCK}.norm2",
    "permuted_positions": "blocks.0:input",
}


@pytest.mark.parametrize("name", ["vit_test_reg_scale", "vit_test_dinov3", "vit_test_scaling_differential"])
def test_every_intermediate_agrees(name):
    report = check_layers(name)
    assert report.passed, report.failures
    assert [precision.dtype for precision in report.precisions] == ["float64", "float32", "bfloat16"]
    places = [difference.name for difference in report["float64"]["layers"].comparison.differences]
    blocks = [int(re.split(r"[.:]", place)[1]) for place in places if place.startswith("blocks.")]
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(configs.get(name).depth))


@pytest.mark.parametrize("plant", FIRST)
def test_the_first_divergent_layer_is_named(plant):
    report = check_layers(MODEL, dtypes=["float64"], plant=PLANTS[plant].apply)
    assert not report.passed
    assert report["float64"].first_beyond.name == FIRST[plant]
    assert any(f"layers: first divergence at {FIRST[plant]}" in line for line in report.failures)


def made_up(right: dict[str, np.ndarray], left: dict[str, np.ndarray]) -> CheckReport:
    part = Part.of("outputs", left, right, 1e-3)
    precision = PrecisionReport(dtype="float32", parts=(part,))
    return CheckReport(
        level="forward", name="made up", config=configs.get("vit_test"), batch_size=1, seed=0, precisions=(precision,)
    )


def test_the_figures_are_valid_json():
    right = {"fine": np.ones(3), "shape": np.ones(3), "nan": np.ones(3), "zero": np.zeros(3)}
    left = {"fine": np.ones(3), "shape": np.ones(4), "nan": np.full(3, np.nan), "zero": np.ones(3)}
    report = made_up(right, left)
    assert math.isinf(report["float32"]["outputs"].worst.relative_l2)

    def refuse(constant):
        raise AssertionError(constant)

    data = json.loads(to_json([report]), parse_constant=refuse)
    assert (data["name"], data["passed"]) == ("made up", False)
    (part,) = data["levels"]["forward"]["precisions"][0]["parts"]
    assert {place["name"]: place["relative_l2"] for place in part["places"]} == {
        "fine": 0,
        "shape": None,
        "nan": None,
        "zero": None,
    }
    assert part["first_beyond"] == "shape"


def test_failures_say_what_is_wrong():
    one = {"a": np.ones(3), "b": np.ones(3)}
    assert made_up(one, {"a": np.ones(3), "b": np.ones(2)}).failures == (
        "float32: outputs: first divergence at b: shapes [2] and [3]",
    )
    (line,) = made_up(one, {"a": np.ones(3), "b": np.full(3, 2.0)}).failures
    assert line == "float32: outputs: first divergence at b: relative L2 1.0e+00, expected at most 1e-03"
    (line,) = made_up(one, {"a": np.ones(3)}).failures
    assert line == "float32: outputs: the two sides have different places: b"
    assert not made_up({}, {}).passed


def test_the_document_is_self_contained(tmp_path):
    right = {f"place {i}": np.arange(1.0, 5.0) for i in range(60)}
    path = write_document([made_up(right, {name: value + 1e-2 for name, value in right.items()})], tmp_path / "report")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (tmp_path / "report" / "report.md").read_text())
    assert pictures == ["forward_outputs.png", "forward_histogram.png"]
    assert all((tmp_path / "report" / picture).is_file() for picture in pictures)
    page = path.read_text()
    assert page.count('src="data:image/png;base64,') == len(re.findall("<img", page)) == 2
    assert "Forward: FAILED" in page
    assert page.count("<td>place ") >= 60
    assert json.loads((tmp_path / "report" / "report.json").read_text())["passed"] is False


def test_elements_are_counted_by_the_size_of_their_difference():
    right = {"a": np.full(4, 2.0), "b": np.ones(2), "c": np.ones(2), "d": np.ones(1)}
    left = {"a": np.array([2.0, 2.0 + 3e-3, 2.0 - 3e-3, 7.0]), "b": np.ones(3), "c": np.array([1.0, np.nan])}
    counts = dict(zip(DECADES, magnitudes(left, right), strict=True))
    assert {power: count for power, count in counts.items() if count} == {-20: 2, -3: 2, 0: 1}
