"""Files of Swin Transformers that transformers and torchvision write, read here, and what is written for them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file
from test_peers_swin import exact, outputs_of
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.swin_transformer import SwinTransformer as OfTorchvision

from parity import configs
from parity.checkpoints import convert, open_checkpoint, parameter_shapes
from parity.checks.parameters import random_images
from parity.compare import compare
from parity.tolerances import PEERS

CLASSES = [
    *("SwinForImageClassification", "SwinModel", "SwinForMaskedImageModeling"),
    *("Swinv2ForImageClassification", "Swinv2Model", "Swinv2ForMaskedImageModeling"),
]
# Windows that divide the first map; that divide none, on maps that aren't square; and larger ones, of Swin V2 alone.
IMAGES = [((32, 32), 4, CLASSES), ((40, 56), 3, CLASSES), ((28, 60), 7, CLASSES[3:])]
CASES = [(kind, image, window) for image, window, kinds in IMAGES for kind in kinds]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Numbers that every path takes part in, temperatures beyond their bound among them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(4 + noise if name.endswith("logit_scale") else 0.2 * noise + 0.5 * (value.ndim == 1))
    return model.eval()


def in_transformers(name: str, image: tuple[int, int], window: int) -> torch.nn.Module:
    kind = transformers.Swinv2Config if name.startswith("Swinv2") else transformers.SwinConfig
    sizes: dict[str, Any] = dict(depths=[2, 2], num_heads=[2, 4], embed_dim=16, mlp_ratio=3.5, encoder_stride=8)
    config = kind(image_size=list(image), window_size=window, num_labels=3, **sizes)
    return drawn(getattr(transformers, name)(config))


def result(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits, or the last map after its norm, as ours is laid out."""
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    encoder = getattr(model, "swin", getattr(model, "swinv2", model))
    with torch.no_grad():
        found = model(given) if not isinstance(model, torch.nn.Module) or hasattr(model, "classifier") else None
        found = encoder(given).last_hidden_state if found is None else found.logits
    return found.numpy()


def held(path: Path, model: torch.nn.Module) -> configs.Config:
    """Both twins give what the project's own model gives, in float64."""
    checkpoint = open_checkpoint(path)
    tensors = {name: np.asarray(value, np.float64) for name, value in checkpoint.tensors.items()}
    images = random_images(checkpoint.config, batch_size=2)
    expected = result(exact(model), images)
    for outputs in outputs_of(checkpoint.config, tensors, images):
        found = outputs["logits"] if expected.ndim == 2 else outputs["forward_features"].reshape(expected.shape)
        assert compare({"outputs": found}, {"outputs": expected}).worst.relative_l2 <= PEERS.limit
    return checkpoint.config


@pytest.mark.parametrize(("name", "image", "window"), CASES)
def test_what_transformers_saves_and_loads(name, image, window, tmp_path):
    model = in_transformers(name, image, window)
    model.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "model.safetensors")
    config = held(tmp_path / "theirs", model)
    assert (config.image_size, config.num_classes) == (image, 3 * name.endswith("Classification"))
    assert parameter_shapes(config) == open_checkpoint(tmp_path / "theirs").tensors.shapes()
    if name.endswith("Modeling"):
        return
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert {key: torch.equal(value, saved[key]) for key, value in written.items()} == dict.fromkeys(saved, True)
    assert held(tmp_path / "back", again.eval()) == open_checkpoint(tmp_path / "back").config


@pytest.mark.parametrize("name", [CLASSES[0], CLASSES[1]])
def test_what_is_in_transformers_memory(name, tmp_path):
    """`torch.save(model.state_dict())` has other names than `save_pretrained`."""
    model = in_transformers(name, (32, 32), 4)
    model.save_pretrained(tmp_path / "theirs")
    torch.save(model.state_dict(), tmp_path / "memory.pth")
    expected, found = open_checkpoint(tmp_path / "theirs").tensors, open_checkpoint(tmp_path / "memory.pth")
    assert found.source["format"] == "huggingface"
    assert {key: np.array_equal(found.tensors[key], value) for key, value in expected.items()} == dict.fromkeys(
        expected, True
    )


SECOND = dict(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)
VERSIONS: dict[int, dict[str, Any]] = {1: dict(downsample_layer=PatchMerging), 2: SECOND}


@pytest.mark.parametrize("image", [(32, 32), (44, 28)])
@pytest.mark.parametrize("version", [1, 2])
def test_what_torchvision_has(version, image, tmp_path):
    sizes = ([4, 4], 16, [2, 2], [2, 4], [3, 3])
    model = drawn(OfTorchvision(*sizes, mlp_ratio=2.75, num_classes=3, **VERSIONS[version]))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    config = open_checkpoint(tmp_path / "model.pth", image_size=image).config
    assert (config.window_sizes, config.image_size) == ((3, 3), image)
    convert(tmp_path / "model.pth", tmp_path / "back", to="torchvision", image_size=image)
    arguments = json.loads((tmp_path / "back" / "torchvision.json").read_text())["arguments"]
    again = OfTorchvision(**arguments, **VERSIONS[version]).eval()
    again.load_state_dict(load_file(tmp_path / "back" / "model.safetensors"))
    checkpoint = open_checkpoint(tmp_path / "back")
    assert checkpoint.config.image_size == image
    tensors = {name: np.asarray(value, np.float64) for name, value in checkpoint.tensors.items()}
    images = random_images(checkpoint.config, batch_size=2)
    for peer in (model, again):
        with torch.no_grad():
            logits = exact(peer)(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
        for outputs in outputs_of(checkpoint.config, tensors, images):
            assert compare({"logits": outputs["logits"]}, {"logits": logits}).worst.relative_l2 <= PEERS.limit


PUBLISHED = ["swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvisions_published_models(name, tmp_path):
    """Every size that it publishes, at full size: names, shapes, image size and preprocessing."""
    model = getattr(torchvision.models, name)()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    found = open_checkpoint(tmp_path / "model.pth")
    assert found.source["format"] == "torchvision"
    assert {key: value.shape for key, value in found.tensors.items()} == parameter_shapes(found.config)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    crop, resized = weights.transforms.keywords["crop_size"], weights.transforms.keywords["resize_size"]
    assert found.config.image_size == (crop, crop)
    assert round(crop / found.config.preprocessing.crop_pct) == resized
    assert {item.field for item in found.assumed} == {"image_size", "preprocessing"}


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "swin_base_patch4_window12_384", "swinv2_tiny_window16_256", "swin_s3_base_224"],
)
def test_microsofts_published_models(name, tmp_path):
    """Its names are what timm translates: timm makes of them what is read here."""
    model = drawn(timm.create_model(name, depths=(2, 2, 2, 2)))
    filtered = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        filtered[".".join(parts).replace("head.fc", "head")] = value
    torch.save({"model": filtered, "epoch": 299}, tmp_path / "original.pth")
    # What is in the file, by timm's own translation.
    module = timm.models.swin_transformer_v2 if "v2" in name else timm.models.swin_transformer
    theirs = module.checkpoint_filter_fn({"model": dict(filtered)}, model)
    said = dict(model=configs.get(name, depths=(2, 2, 2, 2))) if "v2" in name else {}
    found = open_checkpoint(tmp_path / "original.pth", **said)
    assert found.source["format"] == "microsoft"
    assert found.config.window_fit == "shrink_both"
    assert set(theirs) == set(found.tensors)
    assert all(torch.equal(torch.from_numpy(np.asarray(found.tensors[key])), value) for key, value in theirs.items())
    registered = configs.get(name, depths=(2, 2, 2, 2), window_fit="shrink_both", rel_pos_resize="bicubic")
    same = dict(preprocessing=registered.preprocessing)
    if not said and "s3" not in name:
        assert configs.replace(found.config, **same) == configs.replace(registered, trained_windows=(), **same)
