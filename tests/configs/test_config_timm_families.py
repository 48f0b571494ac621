"""Every model of the other families, and every hybrid, against timm's entries."""

from __future__ import annotations

import re

import pytest
from timm_entries import HYBRID_ENTRIES, MOBILEVIT_ENTRIES, PVT_ENTRIES, SWIN_ENTRIES, at_the_size_of

from parity import configs
from parity.checkpoints import parameter_count
from parity.configs import VitConfig
from parity.configs.stem import kernel_sides


@pytest.mark.parametrize("entry", SWIN_ENTRIES, ids=[entry["name"] for entry in SWIN_ENTRIES])
def test_fields_and_parameter_count_of_swin(entry):
    """Of SwinTransformer and SwinTransformerV2; every argument is read."""
    config, arguments = at_the_size_of(entry), dict(entry["kwargs"])
    take, dim, windows = arguments.pop, entry["kwargs"]["embed_dim"], entry["kwargs"]["window_size"]
    expected = dict(
        version=2 if entry["class"] == "SwinTransformerV2" else 1,
        image_size=tuple(take("img_size")),
        patch_size=(take("patch_size", 4),) * 2,
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dim=take("embed_dim"),
        mlp_dim=int(dim * take("mlp_ratio", 4.0)),
        depths=tuple(take("depths")),
        num_heads=tuple(take("num_heads")),
        window_sizes=tuple(windows) if isinstance(take("window_size"), list) else (windows,) * 4,
        trained_windows=tuple(take("pretrained_window_sizes", ())),
        window_fit="shrink",
        act="gelu",
        norm_eps=1e-5,
    )
    assert arguments == {}
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]
    if configs.hub_ids(entry["name"].split(".")[0])[0] == f"timm/{entry['name']}":
        images = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(config.preprocessing).items()
        }
        assert {name: images[name] for name in entry["images"]} == entry["images"]


@pytest.mark.parametrize("entry", HYBRID_ENTRIES, ids=[entry["name"] for entry in HYBRID_ENTRIES])
def test_fields_and_parameter_count_of_hybrids(entry):
    """Of VisionTransformer with what embeds patches made before; every argument is read, and names say the patches."""
    config, arguments = VitConfig.of(at_the_size_of(entry)), dict(entry["kwargs"])
    take, stride = arguments.pop, re.search(r"_s(\d+)|mci", entry["name"])
    assert stride is not None
    # Eight places of a map that is four times as small.
    patch = 32 if "_p8_" in entry["name"] else int(stride.group(1) or 16)
    expected = dict(
        image_size=tuple(take("img_size")),
        patch_size=(patch,) * 2,
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dim=take("embed_dim"),
        depth=take("depth"),
        num_heads=take("num_heads"),
        mlp_dim=4 * entry["kwargs"]["embed_dim"],
        pos_embed_prefix="none" if take("no_embed_class", False) else "all",
    )
    # Places of the map in one of its patches.
    places = take("patch_size")
    if config.stem == "bit":
        assert kernel_sides(config) == (places, places)
    assert not arguments
    assert {field: getattr(config, field) for field in expected} == expected
    assert parameter_count(config) == entry["params"]
    images = entry["images"]
    found = config.preprocessing
    assert (list(found.mean), list(found.std), found.interpolation) == (
        images["mean"],
        images["std"],
        images["interpolation"],
    )


@pytest.mark.parametrize("entry", PVT_ENTRIES, ids=[entry["name"] for entry in PVT_ENTRIES])
def test_fields_and_parameter_count_of_pvt(entry):
    """Of PyramidVisionTransformerV2; every argument is read."""
    config, arguments = configs.get(entry["name"].split(".")[0]), dict(entry["kwargs"])
    take, dims = arguments.pop, entry["kwargs"]["embed_dims"]
    ratios = take("mlp_ratios", (8, 8, 4, 4))
    expected = dict(
        in_chans=take("in_chans"),
        num_classes=take("num_classes"),
        embed_dims=tuple(take("embed_dims")),
        mlp_dims=tuple(dim * ratio for dim, ratio in zip(dims, ratios, strict=True)),
        depths=tuple(take("depths")),
        num_heads=tuple(take("num_heads")),
        sr_ratios=(8, 4, 2, 1),
        linear=take("linear", False),
        norm_eps=1e-6,
        embed_norm_eps=1e-5,
    )
    assert arguments == {}
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]
    images = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(config.preprocessing).items()
    }
    assert {name: images[name] for name in entry["images"]} == entry["images"]


@pytest.mark.parametrize("entry", MOBILEVIT_ENTRIES, ids=[entry["name"] for entry in MOBILEVIT_ENTRIES])
def test_fields_and_parameter_count_of_mobilevit(entry):
    """Of ByobNet; every argument is read."""
    config, take = at_the_size_of(entry), dict(entry["kwargs"]).pop
    stages = [[dict(block) for block in stage] for stage in take("blocks")]
    second = entry["name"].startswith("mobilevitv2")
    dims, depths, inner, blocks = [], [], [], []
    for number, stage in enumerate(stages):
        assert [block.pop("s") for block in stage] == [2 if number else 1, *[1] * (len(stage) - 1)]
        residual, *rest = stage
        dim, ratio = residual.pop("c"), residual.pop("br")
        assert ratio == config.expand_ratio
        dims.append(dim)
        depths.append(residual.pop("d"))
        assert residual == dict(type="bottle", gs=1, bottle_in=True, linear_out=True)
        inner.append(rest[0].pop("transformer_dim", dim // 2) if rest else 0)
        blocks.append(rest[0].pop("transformer_depth") if rest else 0)
        groups = dict(gs=1, br=0.5) if second else dict(br=1.0)
        kind = dict(type="mobilevit2" if second else "mobilevit", d=1, c=dim, patch_size=2)
        assert rest == ([kind | groups] if rest else [])
    expected = dict(
        version=2 if second else 1,
        image_size=tuple(entry["kwargs"]["img_size"]),
        in_chans=entry["kwargs"]["in_chans"],
        num_classes=entry["kwargs"]["num_classes"],
        stem_dim=entry["kwargs"]["stem_chs"],
        dims=tuple(dims),
        depths=tuple(depths),
        transformer_dims=tuple(inner),
        transformer_depths=tuple(blocks),
        mlp_dims=tuple(2 * dim for dim in inner),
        num_heads=1 if second else 4,
        out_dim=entry["kwargs"]["num_features"],
        act=entry["kwargs"]["act_layer"],
        norm_eps=1e-5,
        transformer_norm_eps=1e-5,
        patch_fit="align_corners" if second else "bilinear",
    )
    assert {name: getattr(config, name) for name in expected} == expected
    assert parameter_count(config) == entry["params"]
    if configs.hub_ids(entry["name"].split(".")[0])[0] == f"timm/{entry['name']}":
        assert images_of(config, entry) == entry["images"]


def images_of(config, entry):
    images = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(config.preprocessing).items()
    }
    return {name: images[name] for name in entry["images"]}
