"""Configs to and from JSON, and that what is written stays readable: checkpoints hold it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity import configs

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "configs.json").read_text())

STABILITY = """\
Checkpoints hold this JSON. A field may be added if its default is what older files mean (test_an_older_file_is_read),
renamed or removed only with a new format_version. If that is the case, write tests/data/configs.json anew.
"""


@pytest.mark.parametrize("name", configs.names())
def test_json_round_trip(name):
    config = configs.get(name)
    config = configs.replace(config, **config.own_rates({"drop_path_rate": 0.25}))
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config


@pytest.mark.parametrize("name", GOLDEN)
def test_json_is_stable(name):
    assert configs.to_dict(configs.get(name)) == GOLDEN[name], STABILITY
    assert list(configs.to_dict(configs.get(name))) == list(GOLDEN[name]), STABILITY


@pytest.mark.parametrize("name", GOLDEN)
def test_a_file_is_read(name):
    assert configs.from_dict(GOLDEN[name]) == configs.get(name)


def test_an_older_file_is_read():
    """A file from before a field existed means the field's default."""
    older = {key: value for key, value in GOLDEN["vit_test_dist"].items() if key != "reg_tokens"}
    assert configs.from_dict(older) == configs.get("vit_test_dist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "convnext"}, r"^family: got 'convnext', expected one of .*vit"),
        ({"family": None}, r"^family: got None, expected one of .*vit"),
        ({"embed_dims": 3}, r"^config: unknown field 'embed_dims'; did you mean 'embed_dim'\?$"),
        ({"preprocessing": {"crop": 1.0}}, r"^preprocessing: unknown field 'crop'"),
        ({"preprocessing": 3}, r"^preprocessing: got int, expected an object$"),
        ({"num_heads": 7}, r"^num_heads: got 7, expected a divisor of embed_dim 48$"),
        ({"image_size": [24, 40, 3]}, r"^image_size: got \(24, 40, 3\), expected one positive integer or a pair"),
    ],
)
def test_a_bad_file_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        configs.from_dict(GOLDEN["vit_test_dist"] | change)


@pytest.mark.parametrize("change", [{"embed_dim": "48"}, {"depth": None}, {"class_token": {}}, {"norm_eps": "1e-6"}])
def test_a_value_of_another_type_is_a_value_error_that_names_the_field(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        configs.from_dict(GOLDEN["vit_test_dist"] | change)
