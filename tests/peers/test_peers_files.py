"""What we write loads into timm, and what timm writes loads here: whole models, in both frameworks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import vit_jax
import vit_torch
from parity import checkpoints, configs
from parity.checkpoints import parameter_shapes
from parity.checks.parameters import random_images, random_parameters
from parity.compare import not_identical
from vit_torch.state import from_numpy

MODELS = ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]
SIDES = {"flax": vit_jax, "torch": vit_torch}


def parameters(name: str, **overrides: object) -> dict[str, np.ndarray]:
    shapes = parameter_shapes(configs.get(name, **overrides))
    return {key: value.astype(np.float32) for key, value in random_parameters(shapes).items()}


def saved(side: str, name: str, directory: Path, **overrides: object) -> dict[str, np.ndarray]:
    """The parameters of a model that one side has written."""
    tensors = parameters(name, **overrides)
    checkpoints.write(directory / "made", configs.get(name, **overrides), tensors, name=name)
    SIDES[side].save(SIDES[side].load(directory / "made"), directory / "native", name=name)
    return tensors


def held(path: Path) -> list[dict[str, np.ndarray]]:
    return [side.state.state_dict(side.load(path)) for side in SIDES.values()]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_our_file_loads_into_timm(name, side, tmp_path):
    tensors = saved(side, name, tmp_path)
    peer = timm.create_model(name)
    peer.load_state_dict(load_file(tmp_path / "native" / "model.safetensors"), strict=True)
    assert not_identical({key: value.numpy() for key, value in peer.state_dict().items()}, tensors) == ()


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_timm_loads_here(name, tmp_path):
    tensors = parameters(name)
    peer = timm.create_model(name)
    peer.load_state_dict({key: from_numpy(value) for key, value in tensors.items()})
    save_file(peer.state_dict(), tmp_path / "timm.safetensors")
    checkpoints.convert(tmp_path / "timm.safetensors", tmp_path / "converted", model=name)
    for found in held(tmp_path / "converted"):
        assert not_identical(found, tensors) == ()


@pytest.mark.parametrize("name", MODELS)
def test_the_directory_that_timm_writes_loads_here(name, tmp_path):
    tensors = parameters(name, num_classes=7)
    peer = timm.create_model(name, num_classes=7)
    peer.load_state_dict({key: from_numpy(value) for key, value in tensors.items()})
    save_for_hf(peer, str(tmp_path / "timm"), safe_serialization=True)
    for side, found in zip(SIDES.values(), held(tmp_path / "timm"), strict=True):
        assert not_identical(found, tensors) == ()
        assert side.load(tmp_path / "timm").config == configs.get(name, num_classes=7)


@pytest.mark.parametrize("side", SIDES)
def test_timm_opens_the_directory_that_we_write_for_it(side, tmp_path):
    name, overrides = "deit_tiny_distilled_patch16_224", dict(num_classes=7, depth=3, image_size=(32, 48))
    tensors = saved(side, name, tmp_path, **overrides)
    checkpoints.convert(tmp_path / "native", tmp_path / "timm", to="timm")
    peer = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert not_identical({key: value.numpy() for key, value in peer.state_dict().items()}, tensors) == ()
    images = random_images(configs.get(name, **overrides), batch_size=2).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        assert torch.equal(vit_torch.load(tmp_path / "timm")(pixels), vit_torch.load(tmp_path / "native")(pixels))
        assert peer(pixels).shape == (2, 7)
