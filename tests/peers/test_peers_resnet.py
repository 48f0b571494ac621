"""ResNets against timm and torchvision, in float64, in both modes of BatchNorm, with the same parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from flax import nnx
from test_peers_swin import outputs_of
from test_peers_swin_files import drawn

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint, parameter_shapes
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs.resnet import ResNetConfig
from parity.tolerances import FORWARD, PEERS

CLASSES = ["ResNetForImageClassification", "ResNetModel"]
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


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("name", CLASSES)
def test_files_of_transformers(name, kind, tmp_path):
    """What transformers saves is read, with `config.json` and without, gives the same, and comes back."""
    first = 12 if kind == "basic" else 48
    sizes = dict(embedding_size=12, hidden_sizes=[first, 2 * first, 4 * first], depths=[2, 1, 2], layer_type=kind)
    theirs = drawn(getattr(transformers, name)(transformers.ResNetConfig(num_labels=3, **sizes))).double()
    theirs.save_pretrained(tmp_path / "theirs")
    torch.save(theirs.state_dict(), tmp_path / "alone.pth")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    tensors = dict(checkpoint.tensors)
    alone = open_checkpoint(tmp_path / "alone.pth", model=checkpoint.config)
    assert alone.config == checkpoint.config
    assert all(np.array_equal(alone.tensors[key], value) for key, value in tensors.items())
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    again, report = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True, dtype=torch.float64)
    assert not any(report[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = random_images(checkpoint.config, batch_size=2)[:, :67, :58]
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        for model in (theirs.eval(), again.eval()):
            found = model(given)
            logits = "logits" in found
            expected = found.logits if logits else found.last_hidden_state.permute(0, 2, 3, 1)
            for outputs in outputs_of(checkpoint.config, tensors, images):
                twin = outputs["logits" if logits else "forward_features"]
                assert compare({"outputs": twin}, {"outputs": expected.numpy()}).worst.relative_l2 <= PEERS.limit


def test_strides_of_the_first_paper_are_refused(tmp_path):
    theirs = transformers.ResNetModel(transformers.ResNetConfig(depths=[1, 1, 1, 1], downsample_in_bottleneck=True))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="downsample_in_bottleneck: got True, expected False"):
        open_checkpoint(tmp_path)
