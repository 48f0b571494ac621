"""Files of PVT v2 and SegFormer that timm and transformers write, read here, and what is written for them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from test_peers_pvt import MLP, RATIOS, SIZES, small
from test_peers_swin import outputs_of
from test_peers_swin_files import drawn

from parity.checkpoints import convert, open_checkpoint, parameter_shapes
from parity.checks.parameters import random_images
from parity.compare import compare
from parity.tolerances import PEERS

CLASSES = [
    *("PvtV2ForImageClassification", "PvtV2Model"),
    *("SegformerForImageClassification", "SegformerModel", "SegformerForSemanticSegmentation"),
]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_transformers(name: str, **options: Any) -> torch.nn.Module:
    kind = transformers.PvtV2Config if name.startswith("Pvt") else transformers.SegformerConfig
    sizes: dict[str, Any] = dict(
        depths=[2, 1, 2, 1], hidden_sizes=[16, 32, 48, 32], num_attention_heads=[1, 2, 3, 4], mlp_ratios=[2, 3, 1, 2]
    )
    return drawn(getattr(transformers, name)(kind(num_labels=3, **sizes, **options)))


def held(path, model: torch.nn.Module, image: tuple[int, int]) -> None:
    """Both twins give what the project's own model gives, in float64, whatever the size of images."""
    checkpoint = open_checkpoint(path, image_size=image)
    tensors = {name: np.asarray(value, np.float64) for name, value in checkpoint.tensors.items()}
    images = random_images(checkpoint.config, batch_size=2)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    encoder = getattr(model.double(), "segformer", getattr(model, "pvt_v2", model))
    with torch.no_grad():
        features = encoder(given).last_hidden_state.permute(0, 2, 3, 1).numpy()
        logits = model(given).logits.numpy() if type(model).__name__.endswith("Classification") else None
    for outputs in outputs_of(checkpoint.config, tensors, images):
        found = outputs["forward_features"] if logits is None else outputs["logits"]
        expected = features if logits is None else logits
        assert compare({"outputs": found}, {"outputs": expected}).worst.relative_l2 <= PEERS.limit
    model.float()


@pytest.mark.parametrize("image", [(64, 64), (70, 91)])
@pytest.mark.parametrize("options", [{}, dict(linear_attention=True, qkv_bias=False), dict(hidden_act="relu")])
@pytest.mark.parametrize("name", CLASSES)
def test_what_transformers_saves_and_loads(name, options, image, tmp_path):
    if name.startswith("Segformer") and "linear_attention" in options:
        options = dict(sr_ratios=[4, 2, 2, 2])
    model = in_transformers(name, **options)
    model.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "model.safetensors")
    held(tmp_path / "theirs", model, image)
    torch.save(model.state_dict(), tmp_path / "memory.pth")
    heads = dict(num_heads=(1, 2, 3, 4))
    memory = open_checkpoint(tmp_path / "memory.pth", **heads, image_size=image)
    expected = open_checkpoint(tmp_path / "theirs").tensors
    assert {key: np.array_equal(memory.tensors[key], value) for key, value in expected.items()} == dict.fromkeys(
        expected, True
    )
    if name.endswith("Segmentation"):
        assert any("decode_head" in key for key in open_checkpoint(tmp_path / "theirs").source["ignored"])
        return
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert {key: torch.equal(value, saved[key]) for key, value in written.items()} == dict.fromkeys(saved, True)
    held(tmp_path / "back", again.eval(), image)


@pytest.mark.parametrize("name", ["pvt_v2_b1", "pvt_v2_b2_li"])
def test_a_directory_goes_to_timm_and_back(name, tmp_path):
    peer = drawn(timm.create_model(name, mlp_ratios=RATIOS, **SIZES))
    timm.models.save_for_hf(peer, tmp_path / "theirs", model_args=dict(mlp_ratios=RATIOS, **SIZES))
    found = open_checkpoint(tmp_path / "theirs")
    assert found.config == small(name, image_size=(224, 224))
    assert parameter_shapes(found.config) == found.tensors.shapes()
    convert(tmp_path / "theirs", tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "back", to="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    images = torch.randn(1, 3, 75, 64)
    with torch.no_grad():
        assert torch.equal(again(images), peer(images))
    assert found.config.mlp_dims == MLP["mlp_dims"]
