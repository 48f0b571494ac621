"""Intermediates of models with other names, other parts and other layouts are brought together."""

from __future__ import annotations

import numpy as np

from parity.diagnosis.align import align, in_layout_of

RNG = np.random.default_rng(0)


def values(*names: str, shape=(2, 7, 5)) -> dict[str, np.ndarray]:
    return {name: RNG.standard_normal(shape) for name in names}


def renamed(side: dict[str, np.ndarray], noise: float = 0.0) -> dict[str, np.ndarray]:
    return {f"their.{name}": value + noise * RNG.standard_normal(value.shape) for name, value in side.items()}


def test_equal_names_are_pairs_whatever_their_order():
    left = values("a", "b", "c")
    right = {name: left[name] for name in ("b", "a", "c")}
    assert align(left, right).pairs == (("a", "a"), ("b", "b"), ("c", "c"))


def test_other_names_are_paired_by_their_values():
    left = values("a", "b", "c", "output")
    right = {**renamed({name: left[name] for name in "abc"}), "output": left["output"]}
    found = align(left, right)
    assert found.pairs == (("a", "their.a"), ("b", "their.b"), ("c", "their.c"), ("output", "output"))
    assert not found.only_left
    assert not found.only_right


def test_extra_places_stay_alone():
    left = values("a", "fused", "b", "output")
    q, k = values("q", "k").values()
    right = {"x": left["a"], "q": q, "k": k, "y": left["b"], "output": left["output"]}
    found = align(left, right)
    assert found.pairs == (("a", "x"), ("b", "y"), ("output", "output"))
    assert (found.only_left, found.only_right) == (("fused",), ("q", "k"))


def test_behind_the_last_agreement_size_and_likeness_decide():
    left = values("a", "b") | values("wide", shape=(2, 7, 9)) | values("c", "output")
    later = {name: left[name] for name in ("b", "wide", "c")}
    right = {"their.a": left["a"], **renamed(later, noise=0.1), "output": left["output"] + 1}
    found = align(left, right)
    assert found.pairs[1:] == (("b", "their.b"), ("wide", "their.wide"), ("c", "their.c"), ("output", "output"))


def test_a_place_that_has_nothing_in_common_is_still_where_they_part():
    left = values("a", "b", "output")
    right = {"x": left["a"], "y": -left["b"][:, ::-1], "output": left["output"] * 2}
    assert ("b", "y") in align(left, right).pairs


def test_sizes_have_to_be_equal():
    left, right = values("a"), values("a", shape=(2, 7, 6))
    found = align(left, right)
    assert not found.pairs
    assert (found.only_left, found.only_right) == (("a",), ("a",))


def test_layouts_are_brought_to_the_left_one():
    image = RNG.standard_normal((2, 6, 5, 4))
    tokens = image.reshape(2, 30, 4)
    for other in (image, image.transpose(0, 3, 1, 2), tokens, tokens.transpose(0, 2, 1)):
        for one in (image, tokens):
            np.testing.assert_array_equal(in_layout_of(one, other), one)
    left, right = {"a": image}, {"b": image.transpose(0, 3, 1, 2)}
    assert align(left, right).pairs == (("a", "b"),)
    # Heads that are merged and heads that aren't are one array.
    heads = RNG.standard_normal((2, 7, 3, 2, 4))
    np.testing.assert_array_equal(in_layout_of(heads, heads.reshape(2, 7, 24)), heads)
