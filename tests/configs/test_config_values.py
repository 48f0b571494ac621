"""Whatever a document holds in a field's place: the value is taken, or refused by a ValueError that names the field."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import configs, recipes
from parity.configs import Preprocessing, VitConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "configs.json").read_text())

REFUSED = [
    ("norm_eps", math.inf, r"norm_eps: got inf, expected a finite number"),
    ("norm_eps", math.nan, r"norm_eps: got nan, expected a finite number"),
    ("norm_eps", True, r"norm_eps: got True, expected a finite number"),
    ("depth", True, r"depth: got True, expected an integer"),
    ("num_heads", 12.0, r"num_heads: got 12\.0, expected an integer"),
    ("layer_scale_init", math.nan, r"layer_scale_init: got nan, expected a finite number, or none"),
    ("layer_scale_init", "1e-5", r"layer_scale_init: got '1e-5', expected a finite number, or none"),
    ("class_token", 1, r"class_token: got 1, expected true or false"),
    ("act", 3, r"act: got 3, expected one of gelu, "),
    ("act", ["gelu"], r"act: got \('gelu',\), expected one of gelu, "),
    ("num_kv_heads", [0] * 4, r"num_kv_heads: got \(0, 0, 0, 0\), expected a divisor of num_heads"),
    ("num_kv_heads", [3.0] * 10**5, r"num_kv_heads: got \(3\.0, .{,80}\.\.\., expected a list of integers, or none"),
    ("image_size", {"height": 224}, r"image_size: got \{'height': 224\}, expected one positive integer or a pair"),
    ("image_size", None, r"image_size: got None, expected one positive integer or a pair"),
    ("preprocessing", {"mean": [math.nan] * 3}, r"mean: got \(nan, nan, nan\), expected a list of finite numbers"),
    ("preprocessing", {"mean": "0.5"}, r"mean: got '0\.5', expected a list of finite numbers"),
    ("preprocessing", {"crop_pct": "0.9"}, r"crop_pct: got '0\.9', expected a finite number"),
    ("preprocessing", {"fill": 1.5}, r"fill: got 1\.5, expected an integer, or none"),
    ("preprocessing", None, r"preprocessing: got None, expected an object"),
    ("rope", {"temperature": -math.inf}, r"rope\.temperature: got -inf, expected a finite number"),
    ("rope", {"reference_grid": [4, 4, 4]}, r"rope\.reference_grid: got \(4, 4, 4\), expected a list of 2 integers"),
    ("d" * 10**6, 3, r"config: unknown field 'd{70,80}\.\.\.$"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=[f"{f:.20}={v!r:.20}" for f, v, _ in REFUSED])
def test_a_value_that_the_field_cant_have(field, value, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        configs.from_dict(GOLDEN["vit_test_dist"] | {field: value})


def test_the_same_in_python():
    with pytest.raises(ValueError, match=r"^norm_eps: got inf"):
        VitConfig(norm_eps=math.inf)
    with pytest.raises(ValueError, match=r"^mean: got \(nan,\)"):
        Preprocessing(mean=(math.nan,), std=(0.5,))
    assert VitConfig(norm_eps=1, image_size=32).image_size == (32, 32)


@pytest.mark.parametrize("document", [None, [], "vit", 3, {}, {"family": ["vit"]}, {"family": {}}])
def test_no_config_at_all(document):
    with pytest.raises(ValueError, match=r"^(config|family): got"):
        configs.from_dict(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "100"}, r"steps: got '100', expected an integer"),
        ({"seed": True}, r"seed: got True, expected an integer"),
        ({"optimizer": {"learning_rate": math.nan}}, r"learning_rate: got nan, expected "),
        ({"mesh": {"fsdp": "2"}}, r"fsdp: got '2', expected an integer"),
    ],
)
def test_a_recipe_s_values_too(change, message):
    with pytest.raises(ValueError, match=message):
        recipes.from_dict(recipes.to_dict(recipes.get("digits")) | change)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(2**63), 1e308, 5e-324, "gelu", "token", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(data: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field of a document, inner ones too."""
    found = []
    for key, value in data.items():
        found += [(*path, key), *(places(value, (*path, key)) if isinstance(value, dict) else [])]
    return found


def read(document: dict[str, Any]) -> VitConfig | str:
    """The config, or why there is none."""
    try:
        return configs.from_dict(document)
    except ValueError as error:
        return str(error)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_from_dict_raises_nothing_but_value_errors(data):
    name = data.draw(st.sampled_from(["vit_test_dist", "vit_test_dinov3", "vit_small_patch16_rope_mixed_224"]))
    document = copy.deepcopy(GOLDEN[name])
    for _ in range(data.draw(st.integers(1, 3))):
        *outer, last = data.draw(st.sampled_from(places(document)))
        inner = document
        for key in outer:
            inner = inner[key]
        inner[last] = data.draw(ANYTHING)
    found = read(document)
    if isinstance(found, str):
        assert len(found) < 1000
    else:
        # What is taken is a config like any other: it is written and read again.
        assert configs.from_dict(json.loads(json.dumps(configs.to_dict(found), allow_nan=False))) == found
