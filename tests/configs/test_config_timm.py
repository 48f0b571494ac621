"""Every registered model against timm's entries: constructor arguments and parameter counts, without a framework.

`tests/data/timm_entries.jsonl` holds, for each pretrained tag of timm 1.0.31, what timm's own `create_model` passed to
the constructor and how many parameters came of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parity import configs
from parity.checkpoints import parameter_count

FILE = Path(__file__).parents[1] / "data" / "timm_entries.jsonl"
ENTRIES = [json.loads(line) for line in FILE.read_text().splitlines()]
ARCHITECTURES = {entry["name"].split(".")[0] for entry in ENTRIES}

# No config without its parameter count: the models that timm lacks. A change here changes what a test model is.
NOT_IN_TIMM = {
    "vit_digits": 102_090,
    "vit_test": 59_002,
    "vit_test_clip": 59_050,
    "vit_test_dist": 59_588,
    "vit_test_gap": 58_474,
    "vit_test_map": 75_776,
    "vit_test_reg_scale": 59_434,
    "vit_test_sincos": 57_466,
    "vit_test_swiglu": 70_762,
}

ACTIVATIONS = {None: "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "nn.SiLU": "silu"}
GATED = "partial(mlp.GluMlp, act_layer=nn.SiLU, gate_last=False)"
NORM_EPS = {None: 1e-6, "partial(norm.LayerNorm, eps=1e-05)": 1e-5}
# Arguments that say nothing about the function: the size may vary at run time, and our size is always given.
IGNORED = {"dynamic_img_size"}


def constructor_arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer; the distilled class passes most of them on."""
    arguments = dict(entry["kwargs"])
    return arguments.pop("kwargs", {}) | arguments


def at_the_size_of(entry: dict[str, Any]) -> configs.Config:
    """Our config with the classes and the image size of an entry."""
    arguments = constructor_arguments(entry)
    return configs.get(
        entry["name"].split(".")[0], num_classes=arguments["num_classes"], image_size=arguments["img_size"]
    )


def fields(entry: dict[str, Any]) -> dict[str, Any]:
    """What timm's constructor makes of the arguments (timm/models/vision_transformer.py), as our fields."""
    arguments = constructor_arguments(entry)
    take = arguments.pop
    pool = take("global_pool", "token")
    dim, size, patch = take("embed_dim"), take("img_size"), take("patch_size", 16)
    has_fc_norm = take("fc_norm", None)
    has_fc_norm = pool == "avg" if has_fc_norm is None else has_fc_norm
    has_final_norm = take("final_norm", True)
    pre_norm = take("pre_norm", False)
    mlp = take("mlp_layer", None)
    hidden = int(dim * take("mlp_ratio", 4.0))
    expected = dict(
        image_size=tuple(size) if isinstance(size, list) else (size, size),
        patch_size=(patch, patch),
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dim=dim,
        depth=take("depth"),
        num_heads=take("num_heads"),
        mlp_dim=hidden // 2 if mlp == GATED else hidden,
        mlp={None: "mlp", GATED: "swiglu_packed"}[mlp],
        act=ACTIVATIONS[take("act_layer", None)],
        norm_eps=NORM_EPS[take("norm_layer", None)],
        qkv_bias=take("qkv_bias", True),
        patch_bias=not pre_norm,
        pre_norm=pre_norm,
        class_token=take("class_token", True),
        dist_token=entry["class"] == "VisionTransformerDistilled",
        reg_tokens=take("reg_tokens", 0),
        pos_embed="learned",
        pos_embed_prefix=not take("no_embed_class", False),
        final_norm=has_final_norm and not has_fc_norm,
        fc_norm=has_final_norm and has_fc_norm,
        global_pool=pool,
        layer_scale_init=take("init_values", None),
    )
    unread = set(arguments) - IGNORED
    if unread:
        raise ValueError(f"{entry['name']}: this test doesn't read {sorted(unread)}")
    return expected


def test_every_registered_model_is_counted():
    assert sorted(ARCHITECTURES | set(NOT_IN_TIMM)) == configs.names()
    assert not ARCHITECTURES & set(NOT_IN_TIMM)


@pytest.mark.parametrize("name", NOT_IN_TIMM)
def test_parameter_count_of_models_that_timm_lacks(name):
    assert parameter_count(configs.get(name)) == NOT_IN_TIMM[name]


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_fields_and_parameter_count(entry):
    config = at_the_size_of(entry)
    expected = fields(entry)
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]


def test_the_comparison_can_fail():
    entry = next(entry for entry in ENTRIES if entry["name"].startswith("vit_base_patch32_clip_224"))
    config = configs.replace(at_the_size_of(entry), norm_eps=1e-6)
    assert config.norm_eps != fields(entry)["norm_eps"]
    with pytest.raises(ValueError, match="this test doesn't read"):
        fields(entry | {"kwargs": entry["kwargs"] | {"rope": True}})
