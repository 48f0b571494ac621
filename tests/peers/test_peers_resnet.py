"""ResNets against timm and torchvision, in float64, in both modes of BatchNorm, with the same parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import torchvision
from flax import nnx
from test_peers_swin import outputs_of

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import configs
from parity.checkpoints import convert, parameter_shapes
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs.resnet import ResNetConfig
from parity.tolerances import FORWARD, PEERS

NAMES = sorted(ResNetConfig.registered)
SMALL = {
    name: configs.get(name, depths=(2, 1, 2), num_classes=7, image_size=(61, 52)) for name in NAMES[:2] + NAMES[-2:]
}


def state_of(peer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in peer.state_dict().items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_at_full_size(name):
    expected = parameter_shapes(configs.get(name))
    with torch.device("meta"):
        peers = timm.create_model(name), getattr(torchvision.models, name)()
    for peer in peers:
        assert {key: tuple(value.shape) for key, value in state_of(peer).items()} == expected
        assert list(state_of(peer)) == list(expected)


def peer_of(config: ResNetConfig) -> torch.nn.Module:
    block = timm.models.resnet.BasicBlock if config.block == "basic" else timm.models.resnet.Bottleneck
    return timm.models.resnet.ResNet(block, list(config.depths), num_classes=7).double()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_outputs_and_maps_of_timm(name):
    config = ResNetConfig.of(configs.get(name, depths=(2, 1, 2, 1), num_classes=7, image_size=(61, 52)))
    peer = peer_of(config).eval()
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=2)
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()}, strict=False)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        maps = peer.forward_intermediates(given, intermediates_only=True)
        expected = {
            place: each.permute(0, 2, 3, 1).numpy() for place, each in zip(config.intermediates, maps, strict=True)
        }
        expected |= {"logits": peer(given).numpy()}
    for outputs in outputs_of(config, tensors, images):
        assert compare({place: outputs[place] for place in expected}, expected).worst.relative_l2 <= PEERS.limit


@pytest.mark.parametrize("name", ["resnet34", "resnet101"])
def test_a_training_step_of_timm(name):
    """Logits of training mode, every gradient, and the statistics that BatchNorm has afterwards."""
    config = ResNetConfig.of(configs.get(name, depths=(1, 1, 2, 1), num_classes=7, image_size=(45, 64)))
    peer = peer_of(config).train()
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=4)
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()}, strict=False)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    weights = np.random.default_rng(3).normal(size=(4, 7))
    (peer(given) * torch.from_numpy(weights)).sum().backward()
    statistics = {key: value.numpy() for key, value in state_of(peer).items() if "running" in key}
    gradients = {key: value.grad.numpy() for key, value in peer.named_parameters()}

    twin = vit_torch.create_model(config).double().train()
    vit_torch.state_dict.load_state_dict(twin, tensors)
    (twin(given) * torch.from_numpy(weights)).sum().backward()
    found = {key: value.grad.numpy() for key, value in twin.named_parameters()}
    assert compare(found, gradients).worst.relative_l2 <= PEERS.limit
    after = vit_torch.state_dict.state_dict(twin)
    assert compare({key: after[key] for key in statistics}, statistics).worst.relative_l2 <= PEERS.limit
    assert compare({key: tensors[key] for key in statistics}, statistics).worst.relative_l2 > 1e-3

    with jax.enable_x64(True):
        model = vit_jax.create_model(config, rngs=nnx.Rngs(0))
        vit_jax.state_dict.load_state_dict(model, tensors)
        model.train()
        step = nnx.jit(nnx.grad(lambda model, images, weights: (model(images) * weights).sum()))
        grads = step(model, jnp.asarray(images), jnp.asarray(weights))
        after = vit_jax.state_dict.state_dict(model)
        assert compare({key: after[key] for key in statistics}, statistics).worst.relative_l2 <= PEERS.limit
        nnx.update(model, grads)
        found = vit_jax.state_dict.state_dict(model)
    assert compare({key: found[key] for key in gradients}, gradients).worst.relative_l2 <= PEERS.limit


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_files_of_torchvision_and_timm(name, tmp_path):
    """What torchvision saves is read, what is written for timm loads strictly, and all three give the same."""
    theirs = getattr(torchvision.models, name)(num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "timm", to="timm")
    peer = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    twin = vit_torch.load(tmp_path / "timm")
    images = torch.randn(1, 3, 64, 75)
    with torch.no_grad():
        expected = {"logits": theirs(images).numpy()}
        for other in (peer, twin):
            assert compare({"logits": other(images).numpy()}, expected).worst.relative_l2 <= FORWARD["float32"].limit
