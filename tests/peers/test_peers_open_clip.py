"""open_clip's own image towers, and timm's in its wrapper: what they save, and what we write for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from format_peers import assert_the_twins_agree, distances, pixels_of, randomised
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.transform import PreprocessCfg
from safetensors.torch import load_file, save_file

from benchmarks.timm_peer import float64_rope
from parity import checkpoints, configs
from parity.checkpoints import CheckpointError, open_checkpoint, parameter_shapes
from parity.checkpoints.formats.open_clip import DOCUMENT, NATIVE, WEIGHTS, _trunk_table
from parity.checkpoints.formats.open_clip_config import _REFUSED, _WITHOUT_EFFECT, DEFAULTS, understood
from parity.checkpoints.formats.translate import fill, their_shapes
from parity.compare import not_identical
from parity.tolerances import PEERS

VISION = dict(width=48, head_width=12, layers=2, image_size=24, patch_size=8, mlp_ratio=1.7)
OUT = 10
TOWERS: dict[str, tuple[dict[str, Any], bool]] = {
    "erf": ({}, False),
    "quick_gelu": ({}, True),
    "tanh, eps": (dict(act_kwargs={"approximate": "tanh"}, norm_kwargs={"eps": 1e-3}), False),
    "CLIPA": (dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True), False),
    "mean of normalised tokens": (dict(pool_type="avg"), False),
    "LayerScale": (dict(ls_init_value=0.1), False),
    "norms inside": (dict(qk_norm=True, scale_attn_inner=True, scale_fc=True), False),
    "fixed positions": (dict(pos_embed_type="sin_cos_2d"), False),
    "oblong": (dict(image_size=(24, 40), patch_size=(8, 4)), False),
    "partial patches": (dict(image_size=27), False),
}
# What MobileCLIP's own code calls timm's tensors.
MOBILECLIP = [
    (r"^patch_embed\.backbone\.(\d)\.conv\.", r"patch_emb.\1.block.conv."),
    (r"^patch_embed\.backbone\.(\d)\.bn\.", r"patch_emb.\1.block.norm."),
    (r"^blocks\.(\d)\.norm1\.", r"transformer.\1.pre_norm_mha.0."),
    (r"^blocks\.(\d)\.attn\.qkv\.", r"transformer.\1.pre_norm_mha.1.qkv_proj."),
    (r"^blocks\.(\d)\.attn\.proj\.", r"transformer.\1.pre_norm_mha.1.out_proj."),
    (r"^blocks\.(\d)\.norm2\.", r"transformer.\1.pre_norm_ffn.0."),
    (r"^blocks\.(\d)\.mlp\.fc1\.", r"transformer.\1.pre_norm_ffn.1."),
    (r"^blocks\.(\d)\.mlp\.fc2\.", r"transformer.\1.pre_norm_ffn.4."),
    (r"^norm\.", "post_transformer_norm."),
]
# Towers of timm: entries of small models with the ways of projecting that open_clip has.
TRUNKS: dict[str, dict[str, Any]] = {
    "MobileCLIP-B": dict(timm_model_name="vit_base_mci_224", timm_pool="token", timm_proj=None, image_size=224),
    "in the trunk": dict(timm_model_name="test_vit", timm_pool="token", timm_proj=None, image_size=160),
    "linear": dict(timm_model_name="test_vit", timm_pool="", timm_proj="linear", image_size=160),
    "linear with bias": dict(
        timm_model_name="test_vit2", timm_pool="avg", timm_proj="linear", timm_proj_bias=True, image_size=160
    ),
    "none": dict(timm_model_name="test_vit", timm_pool="token", timm_proj="none", image_size=160),
    "another pool": dict(timm_model_name="eva02_tiny_patch14_224", timm_pool="token", timm_proj="none"),
    "EVA": dict(timm_model_name="eva02_tiny_patch14_224", timm_pool="avg", timm_proj=None),
}


def tower(vision: dict[str, Any], quick_gelu: bool = False) -> torch.nn.Module:
    return randomised(_build_vision_tower(OUT, CLIPVisionCfg(**vision), quick_gelu))


def save(directory: Path, peer: torch.nn.Module, vision: dict[str, Any], quick_gelu: bool = False) -> Path:
    """As on the hub, with something of a text tower."""
    directory.mkdir()
    model = {"embed_dim": OUT, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": {}}
    images = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1], "interpolation": "bilinear", "resize_mode": "squash"}
    (directory / DOCUMENT).write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}))
    tensors = {f"visual.{name}": value.contiguous() for name, value in peer.state_dict().items()}
    save_file(tensors | {"logit_scale": torch.ones(())}, directory / WEIGHTS)
    return directory


def check_both_ways(tmp_path: Path, vision: dict[str, Any], quick_gelu: bool = False) -> None:
    peer = tower(vision, quick_gelu)
    found = assert_the_twins_agree(save(tmp_path / "theirs", peer, vision, quick_gelu), peer)
    ignored = [name for name in found.source["ignored"] if not name.endswith(".num_batches_tracked")]
    assert ignored == ["logit_scale"]
    checkpoints.convert(tmp_path / "theirs", tmp_path / "ours", to="open_clip")
    model = json.loads((tmp_path / "ours" / DOCUMENT).read_text())["model_cfg"]
    again = _build_vision_tower(
        model["embed_dim"], CLIPVisionCfg(**model["vision_cfg"]), model.get("quick_gelu", False)
    ).double()
    tensors = {name.removeprefix("visual."): value for name, value in load_file(tmp_path / "ours" / WEIGHTS).items()}
    again.load_state_dict(tensors, strict=True)
    theirs = {name: value.numpy() for name, value in peer.state_dict().items()}
    if vision.get("timm_proj_bias"):  # a projection with a bias is timm's own head
        theirs = {name.replace("head.proj", "trunk.head"): value for name, value in theirs.items()}
    assert not_identical({name: value.numpy() for name, value in again.state_dict().items()}, theirs) == ()
    _, pixels = pixels_of(found)
    with torch.inference_mode():
        assert torch.equal(again.eval()(pixels), peer(pixels))


@pytest.mark.parametrize("kind", TOWERS)
def test_towers_of_its_own(kind, tmp_path):
    vision, quick_gelu = TOWERS[kind]
    check_both_ways(tmp_path, VISION | vision, quick_gelu)


@pytest.mark.parametrize("kind", TRUNKS)
def test_towers_of_timm(kind, tmp_path, monkeypatch):
    """Two blocks of each: depth isn't an argument that open_clip passes on."""
    vision = TRUNKS[kind]
    name = vision["timm_model_name"]
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, depth=2, **kwargs))
    monkeypatch.setattr("parity.checkpoints.formats.open_clip_config.get", lambda name: configs.get(name, depth=2))
    assert configs.get(name).depth > 2
    if name.startswith("eva"):
        with float64_rope():
            check_both_ways(tmp_path, vision)
    else:
        check_both_ways(tmp_path, vision)


def test_mobileclips_own_file(tmp_path):
    """Its names, which timm turns into its own; two blocks."""
    peer = randomised(timm.create_model("vit_base_mci_224", depth=2)).double()
    drawn = {name: value for name, value in peer.state_dict().items() if value.ndim and name != "head.bias"}
    original = {
        "cls_token": drawn.pop("cls_token"),
        "pos_embed.pos_embed.pos_embed": drawn.pop("pos_embed")[None],
        "classifier.proj": drawn.pop("head.weight").T,
    }
    for name, value in drawn.items():
        for ours, theirs in MOBILECLIP:
            name = re.sub(ours, theirs, name)
        original[name] = value
    original = {f"image_encoder.model.{name}": value for name, value in original.items()}
    peer.load_state_dict(timm.models.vision_transformer_hybrid._convert_mobileclip(original, peer), strict=True)
    beside = {"text_encoder.projection_layer": torch.ones(2, 2), "logit_scale": torch.ones(())}
    torch.save(original | beside, tmp_path / "mobileclip_b.pt")
    found = assert_the_twins_agree(tmp_path / "mobileclip_b.pt", peer.eval())
    assert (found.config.preprocessing.mean, found.source["format"]) == ((0.0,) * 3, "open_clip")
    assert set(found.source["ignored"]) == set(beside)


@pytest.mark.parametrize("change", [dict(act="quick_gelu"), dict(norm_eps=1e-6), dict(pre_norm=False)])
def test_the_comparison_can_fail(change, tmp_path):
    vision = VISION | dict(no_ln_pre=True) if "pre_norm" in change else VISION
    peer = tower(VISION)
    found = open_checkpoint(save(tmp_path / "theirs", peer, VISION))
    images, pixels = pixels_of(found)
    with torch.inference_mode():
        expected = peer(pixels)
    if "pre_norm" in change:
        document = json.loads((tmp_path / "theirs" / DOCUMENT).read_text())
        document["model_cfg"]["vision_cfg"] = vision
        (tmp_path / "theirs" / DOCUMENT).write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match=r"unexpected visual\.ln_pre\.weight"):
            open_checkpoint(tmp_path / "theirs")
        return
    changed = type(found)(found.path, configs.replace(found.config, **change), "", {}, found.tensors)
    assert min(distances(changed, images, expected, flax=False)) > 1e3 * PEERS.limit


def test_every_field_of_its_config_is_known():
    """With open_clip's own defaults."""
    fields = dict(vars(CLIPVisionCfg()))
    assert set(fields) == {*DEFAULTS, *_REFUSED, *_WITHOUT_EFFECT}
    assert {field: value for field, value in fields.items() if field not in _WITHOUT_EFFECT} == DEFAULTS | _REFUSED
    images = PreprocessCfg()
    ours = understood({"model_cfg": {"embed_dim": OUT, "vision_cfg": VISION}})[0].preprocessing
    assert (ours.mean, ours.std, ours.interpolation) == (images.mean, images.std, images.interpolation)
    assert (ours.crop_mode, ours.crop_pct, images.resize_mode) == ("center", 1.0, "shortest")


# Image towers that are no flat ViT, and the one option that no model here has.
OTHER = ("RN", "convnext", "swin", "MobileCLIP-", "MobileCLIP2-S", "MobileCLIP2-B", "ViTamin", "vit_relpos")
ATTENTIONAL_POOL = {"coca_ViT-B-32", "coca_ViT-L-14"}


@pytest.mark.parametrize("name", [name for name in open_clip.list_models() if not name.startswith(OTHER)])
def test_every_flat_vit_of_open_clip_has_its_names_and_shapes(name):
    model = open_clip.get_model_config(name)
    if name in ATTENTIONAL_POOL:
        with pytest.raises(ValueError, match="attentional_pool"):
            understood({"model_cfg": model})
        return
    config, architecture = understood({"model_cfg": model})
    with torch.device("meta"):
        peer = _build_vision_tower(model["embed_dim"], model["vision_cfg"], model.get("quick_gelu", False))
    shapes = {f"visual.{key}": tuple(value.shape) for key, value in peer.state_dict().items()}
    table = _trunk_table(config, shapes, architecture) if architecture else NATIVE
    assert their_shapes(fill(table, config, source=name)) == shapes
    assert sum(p.numel() for p in peer.parameters()) == sum(
        torch.Size(shape).numel() for shape in parameter_shapes(config).values()
    )
