"""parity.compare: what counts as different, and what is reported."""

from __future__ import annotations

import dataclasses
import io
import math

import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from parity.compare import compare, not_identical
from parity.tolerances import FORWARD, Tolerance

LIMIT = FORWARD["float64"].limit


def test_figures_are_the_definitions():
    left, right = np.array([[3.0, 0.0], [0.0, 4.5]]), np.array([[3.0, 0.0], [0.0, 4.0]])
    (found,) = compare({"a": left}, {"a": right}).differences
    assert (found.name, found.left_shape, found.relative_l2, found.max_abs) == ("a", (2, 2), 0.1, 0.5)


def test_differences_are_taken_in_float64():
    values = np.linspace(1, 2, 300)
    (found,) = compare({"a": values.astype(np.float16)}, {"a": values.astype(np.float16)}).differences
    assert found.relative_l2 == 0
    # float16 would overflow to infinity while it squares.
    big = np.full(4, 6e4, np.float16)
    (found,) = compare({"a": big}, {"a": -big}).differences
    assert found.relative_l2 == 2


def test_names_on_one_side_only_are_listed_and_fail():
    one = np.ones(3)
    report = compare({"a": one, "b": one}, {"c": one, "a": one})
    assert (report.only_left, report.only_right) == (("b",), ("c",))
    assert report.first_beyond(LIMIT) is None
    assert not report.ok(LIMIT)
    assert compare({"a": one}, {"a": one}).ok(LIMIT)


@pytest.mark.parametrize(
    ("left", "right", "remark"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "shapes [2, 3] and [3, 2]"),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), "1 and 1 values are not finite"),
        (np.array([np.inf, np.inf]), np.array([1.0, 1.0]), "2 and 0 values are not finite"),
        (np.array([1e-30]), np.array([0.0]), ""),
    ],
    ids=["shape", "nan", "inf", "against zeros"],
)
def test_what_has_no_figure_is_infinitely_different(left, right, remark):
    report = compare({"a": left}, {"a": right})
    assert report.differences[0].relative_l2 == math.inf
    assert report.differences[0].remark == remark
    assert not report.ok(1e300)


def test_nothing_compared_is_not_ok():
    assert compare({}, {}).worst is None
    assert not compare({}, {}).ok(math.inf)


def test_first_beyond_follows_the_order_and_worst_the_size():
    one = np.ones(4)
    report = compare({"a": one, "b": one * 1.1, "c": one * 2}, {"c": one, "b": one, "a": one})
    assert [d.name for d in report.differences] == ["a", "b", "c"]
    assert report.first_beyond(LIMIT).name == "b"
    assert report.worst.name == "c"


def test_tables_show_every_row():
    report = compare({"a": np.ones(3), "b": np.ones((2, 2))}, {"a": np.full(3, 2.0), "c": np.ones(1)})
    markdown = report.markdown().splitlines()
    assert markdown[2:] == [
        "| a | 3 | 5.0e-01 | 1.0e+00 |  |",
        "| b |  |  |  | only left |",
        "| c |  |  |  | only right |",
    ]
    text = io.StringIO()
    Console(width=100, file=text).print(report.table("title", tolerance=LIMIT))
    assert all(word in text.getvalue() for word in ("title", "5.0e-01", "only left", "only right"))


def test_identical_means_every_bit_of_the_same_type():
    array = np.array([0.0, np.nan, 1.0], np.float32)
    assert not_identical({"a": array}, {"a": array.copy()}) == ()
    changed = {
        "sign of zero": np.array([-0.0, np.nan, 1.0], np.float32),
        "type": array.astype(np.float64),
        "shape": array[None],
        "last bit": np.array([0.0, np.nan, np.nextafter(np.float32(1), np.float32(2))], np.float32),
    }
    for what, other in changed.items():
        assert not_identical({what: array}, {what: other}) == (what,)
    half = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert not_identical({"a": half, "b": half}, {"a": half[::-1], "c": half}) == ("a", "b", "c")


def test_limits_leave_room_above_what_was_measured():
    for tolerance in FORWARD.values():
        assert 0 < tolerance.measured < tolerance.limit
        assert tolerance.reason
    assert FORWARD["float64"].limit < FORWARD["float32"].limit < FORWARD["bfloat16"].limit
    with pytest.raises(dataclasses.FrozenInstanceError):
        FORWARD["float64"].limit = 1.0
    assert isinstance(FORWARD["float64"], Tolerance)
