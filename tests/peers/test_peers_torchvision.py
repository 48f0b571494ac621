"""torchvision's own ViT: what it saves is what our models run, and what we write it loads strictly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from format_peers import assert_the_twins_agree, distances, pixels_of, randomised
from safetensors.torch import load_file
from torchvision.models import VisionTransformer, get_model
from torchvision.transforms import InterpolationMode

from parity import configs
from parity.checkpoints import open_checkpoint
from parity.checkpoints.assumed import Given
from parity.checkpoints.formats import torchvision
from parity.checkpoints.formats.translate import fill, their_shapes
from parity.compare import not_identical
from parity.configs import get
from parity.tolerances import PEERS

# A width whose heads torchvision's models tell: a lone file shows none.
SIZES = dict(image_size=24, patch_size=8, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=80, num_classes=10)
MODELS = ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"]


def make(**arguments: int) -> torch.nn.Module:
    return randomised(VisionTransformer(**(SIZES | arguments)))


@pytest.mark.parametrize("arguments", [{}, dict(representation_size=36), dict(image_size=40, num_classes=7)])
def test_a_file_of_torchvision_and_back(arguments, tmp_path):
    peer = make(**arguments)
    torch.save(peer.state_dict(), tmp_path / "model.pth")
    found = assert_the_twins_agree(tmp_path / "model.pth", peer)
    torchvision.write(tmp_path / "written", found.config, found.tensors)
    document = json.loads((tmp_path / "written" / "torchvision.json").read_text())
    again = VisionTransformer(**document["arguments"]).double().eval()
    again.load_state_dict(load_file(tmp_path / "written" / "model.safetensors"), strict=True)
    theirs = {name: value.numpy() for name, value in peer.state_dict().items()}
    assert not_identical({name: value.numpy() for name, value in again.state_dict().items()}, theirs) == ()
    _, pixels = pixels_of(found)
    with torch.inference_mode():
        assert torch.equal(again(pixels), peer(pixels))


def test_the_names_of_old_files(tmp_path):
    """torchvision itself renames them as it loads: its model is the reference, its loader the reader."""
    peer = make()
    renamed = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for name, value in peer.state_dict().items()
    }
    torch.save(renamed, tmp_path / "old.pth")
    assert any("linear_1" in name for name in renamed)
    assert_the_twins_agree(tmp_path / "old.pth", peer)
    VisionTransformer(**SIZES).double().load_state_dict(torch.load(tmp_path / "old.pth"), strict=True)


@pytest.mark.parametrize("change", [dict(norm_eps=1e-5), dict(act="gelu_tanh"), dict(num_heads=8)])
def test_the_comparison_can_fail(change, tmp_path):
    peer = make()
    torch.save(peer.state_dict(), tmp_path / "model.pth")
    found = open_checkpoint(tmp_path / "model.pth")
    images, pixels = pixels_of(found)
    with torch.inference_mode():
        expected = peer(pixels)
    changed = type(found)(found.path, configs.replace(found.config, **change), "", {}, found.tensors)
    assert min(distances(changed, images, expected, flax=False)) > 1e3 * PEERS.limit


@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_heads_of_the_published_models(name):
    with torch.device("meta"):
        peer = get_model(name)
    shapes = {key: tuple(value.shape) for key, value in peer.state_dict().items()}
    config = torchvision._config(shapes, {}, Given(), Path(name))
    assert their_shapes(fill(torchvision.table(), config, source=name)) == shapes
    assert config.num_heads == peer.encoder.layers[0].num_heads
    assert (config.image_size, config.depth) == ((peer.image_size,) * 2, len(peer.encoder.layers))
    assert config.norm_eps == peer.encoder.ln.eps
    assert get("vit_base_patch16_224").act == config.act == "gelu"


def published() -> list:
    from torchvision.models import get_model_weights

    return [weights for name in MODELS for weights in get_model_weights(name)]


@pytest.mark.parametrize("weights", published(), ids=str)
def test_preprocessing_of_the_published_weights(weights):
    """That of the size, as far as tensors show which weights they are; the exceptions are listed."""
    size = weights.meta["min_size"][0]
    patch = 14 if "H_14" in str(weights) else 16
    images = torchvision._preprocessing((size, size), (patch, patch))
    theirs = weights.transforms()
    modes = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
    ours = (modes[images.interpolation], list(images.resized((size, size))[:1]))
    same = ours == (theirs.interpolation, theirs.resize_size) and tuple(theirs.mean) == images.mean
    # The same tensors' names and sizes as another set of weights.
    unlike = {"ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1", "ViT_L_16_Weights.IMAGENET1K_SWAG_LINEAR_V1"}
    assert same == (str(weights) not in unlike | {"ViT_L_16_Weights.IMAGENET1K_V1"})
