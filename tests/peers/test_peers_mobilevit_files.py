"""Files of MobileViTs that timm and transformers write, read here, and what is written for them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from test_peers_swin import outputs_of
from test_peers_swin_files import drawn

from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint, parameter_shapes
from parity.checkpoints.formats.huggingface import registry as huggingface_registry
from parity.checks.parameters import random_images
from parity.compare import compare
from parity.tolerances import PEERS

CLASSES = [
    *("MobileViTForImageClassification", "MobileViTModel", "MobileViTForSemanticSegmentation"),
    *("MobileViTV2ForImageClassification", "MobileViTV2Model", "MobileViTV2ForSemanticSegmentation"),
]
SIZES: dict[str, dict[str, Any]] = {
    "first": dict(neck_hidden_sizes=[8, 8, 12, 16, 16, 24, 20], hidden_sizes=[8, 12, 16], num_attention_heads=2),
    "second": dict(width_multiplier=0.125, n_attn_blocks=[1, 2, 1]),
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_transformers(name: str, **options: Any) -> torch.nn.Module:
    """A class with random parameters and statistics."""
    second = "V2" in name
    kind = transformers.MobileViTV2Config if second else transformers.MobileViTConfig
    sizes = SIZES["second" if second else "first"]
    model = drawn(getattr(transformers, name)(kind(num_labels=3, **sizes, **options)))
    generator = torch.Generator().manual_seed(5)
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def held(path, model: torch.nn.Module, image: tuple[int, int]) -> None:
    """Both twins give what the project's own model gives, in float64, whatever the size of images."""
    checkpoint = open_checkpoint(path, image_size=image)
    tensors = {name: np.asarray(value, np.float64) for name, value in checkpoint.tensors.items()}
    images = random_images(checkpoint.config, batch_size=2)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    encoder = getattr(model.double(), "mobilevit", getattr(model, "mobilevitv2", model))
    with torch.no_grad():
        features = encoder(given).last_hidden_state.permute(0, 2, 3, 1).numpy()
        logits = model(given).logits.numpy() if type(model).__name__.endswith("Classification") else None
    for outputs in outputs_of(checkpoint.config, tensors, images):
        found = outputs["forward_features"] if logits is None else outputs["logits"]
        expected = features if logits is None else logits
        assert compare({"outputs": found}, {"outputs": expected}).worst.relative_l2 <= PEERS.limit
    model.float()


@pytest.mark.parametrize(
    ("options", "image"),
    [({}, (64, 64)), (dict(hidden_act="relu", layer_norm_eps=1e-3, expand_ratio=3.0), (70, 91))],
)
@pytest.mark.parametrize("name", CLASSES)
def test_what_transformers_saves_and_loads(name, options, image, tmp_path):
    if not name.startswith("MobileViTV2"):
        options = options | (dict(qkv_bias=False, mlp_ratio=3.0) if options else {})
    model = in_transformers(name, **options)
    model.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "model.safetensors")
    held(tmp_path / "theirs", model, image)
    torch.save(model.state_dict(), tmp_path / "memory.pth")
    heads = {} if "V2" in name else dict(num_heads=2)
    memory = open_checkpoint(tmp_path / "memory.pth", **heads, image_size=image)
    theirs = open_checkpoint(tmp_path / "theirs", image_size=image)
    assert {key: np.array_equal(memory.tensors[key], value) for key, value in theirs.tensors.items()} == dict.fromkeys(
        theirs.tensors, True
    )
    shown = {"act", "transformer_norm_eps", "drop_rate"}
    same = {key: value for key, value in vars(theirs.config).items() if key not in shown}
    assert {key: getattr(memory.config, key) for key in same} == same
    if name.endswith("Segmentation"):
        assert any("segmentation_head" in key for key in theirs.source["ignored"])
        return
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert {key: torch.equal(value, saved[key]) for key, value in written.items()} == dict.fromkeys(saved, True)
    held(tmp_path / "back", again.eval(), image)


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0])
def test_widths_of_the_second_version(factor, tmp_path):
    """A class of each published width has the sizes of timm's model."""
    config = configs.get(f"mobilevitv2_{round(100 * factor):03}", patch_fit="zeros")
    with torch.device("meta"):
        peer = transformers.MobileViTV2ForImageClassification(
            transformers.MobileViTV2Config(width_multiplier=factor, num_labels=1000)
        )
    kind = next(kind for kind in huggingface_registry.ARCHITECTURES if kind.name == "MobileViTV2ForImageClassification")
    found = kind.config(peer.config.to_dict())
    assert configs.replace(found, preprocessing=config.preprocessing) == config


def test_what_other_strides_of_segmentation_are(tmp_path):
    model = in_transformers("MobileViTForSemanticSegmentation", output_stride=16)
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="output_stride: got 16, expected 32"):
        open_checkpoint(tmp_path / "theirs")


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_a_directory_goes_to_timm_and_back(name, tmp_path):
    options = dict(num_classes=5, act_layer="relu", stem_chs=24)
    peer = drawn(timm.create_model(name, **options))
    timm.models.save_for_hf(peer, tmp_path / "theirs", model_args=options)
    found = open_checkpoint(tmp_path / "theirs")
    assert found.config == configs.get(name, num_classes=5, act="relu", stem_dim=24)
    assert parameter_shapes(found.config) == found.tensors.shapes()
    convert(tmp_path / "theirs", tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "back", to="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    images = torch.randn(1, 3, 75, 64)
    with torch.no_grad():
        assert torch.equal(again(images), peer(images))
