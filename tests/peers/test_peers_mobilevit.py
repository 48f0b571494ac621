"""MobileViTs against timm, in float64, in both modes of BatchNorm, with the same parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from flax import nnx
from test_peers_resnet import state_of
from test_peers_swin import outputs_of
from timm.models import mobilevit as module
from timm.models.byobnet import ByobNet, ByoModelCfg

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs.mobilevit import MobileVitConfig
from parity.tolerances import FORWARD, PEERS

NAMES = sorted(MobileVitConfig.registered)
# One of each version, at small sizes: maps of 16 x 21, 8 x 11, 4 x 6 behind even ones, and 9 x 12, 5 x 6, 3 x 3.
SMALL = {
    "mobilevit_xxs": dict(
        stem_dim=8,
        dims=(8, 16, 24, 16),
        depths=(1, 2, 1, 1),
        transformer_dims=(0, 0, 16, 24),
        transformer_depths=(0, 0, 2, 1),
        mlp_dims=(0, 0, 32, 48),
        out_dim=40,
        num_classes=7,
    ),
    "mobilevitv2_050": dict(
        stem_dim=8,
        dims=(8, 16, 32, 48),
        depths=(2, 1, 1, 1),
        transformer_dims=(0, 0, 16, 24),
        transformer_depths=(0, 0, 2, 1),
        mlp_dims=(0, 0, 32, 48),
        num_classes=7,
    ),
}
IMAGES = [(64, 84), (35, 47), (33, 64)]


def small(name: str, image: tuple[int, int] = IMAGES[1], **changes) -> MobileVitConfig:
    return MobileVitConfig.of(configs.get(name, image_size=image, **SMALL[name] | changes))


def peer_of(config: MobileVitConfig, **options) -> ByobNet:
    blocks = []
    for stage, dim in enumerate(config.dims):
        given = dict(d=config.depths[stage], c=dim, s=2 if stage else 1, br=config.expand_ratio)
        depth = config.transformer_depths[stage]
        if not depth:
            blocks.append(module._inverted_residual_block(**given))
        elif config.version == 1:
            sizes = dict(transformer_dim=config.transformer_dims[stage], transformer_depth=depth, patch_size=2)
            blocks.append(module._mobilevit_block(**given, **sizes))
        else:
            blocks.append(module._mobilevitv2_block(**given, transformer_depth=depth))
    cfg = ByoModelCfg(
        blocks=tuple(blocks),
        stem_chs=config.stem_dim,
        stem_type="3x3",
        stem_pool="",
        downsample="",
        act_layer=config.act,
        num_features=config.out_dim,
    )
    return ByobNet(cfg, num_classes=config.num_classes, **options).double()


def load(peer: torch.nn.Module, tensors: dict[str, np.ndarray]) -> None:
    state = {key: torch.from_numpy(value) for key, value in tensors.items()}
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)


def test_every_model_of_timms_module_is_here():
    assert sorted(timm.list_models(module="mobilevit")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_at_full_size(name):
    with torch.device("meta"):
        peer = timm.create_model(name)
    config = MobileVitConfig.of(configs.get(name))
    expected = parameter_shapes(config)
    assert {key: tuple(value.shape) for key, value in state_of(peer).items()} == expected
    assert list(state_of(peer)) == list(expected)
    with torch.device("meta"):
        twin = vit_torch.create_model(config)
    assert list(twin.state_dict()) == list(expected)
    images, ours = peer.pretrained_cfg, config.preprocessing
    assert (ours.crop_pct, ours.interpolation, ours.mean, ours.std, (3, *config.image_size)) == tuple(
        images[key] for key in ("crop_pct", "interpolation", "mean", "std", "input_size")
    )
    with torch.device("meta"):
        stages = timm.create_model(name, drop_path_rate=0.2).stages
    found = [
        [getattr(block.drop_path, "drop_prob", 0.0) for block in stage[:depth]]
        for stage, depth in zip(stages, config.depths, strict=True)
    ]
    mine = configs.replace(config, drop_path_rate=0.2).drop_path_rates
    pairs = zip(found, mine, strict=True)
    theirs, own = zip(*[(each, rates[: len(each)]) for each, rates in pairs], strict=True)
    flat = [{"rates": np.concatenate(each)} for each in (own, theirs)]
    assert compare(*flat).worst.relative_l2 <= FORWARD["float32"].limit


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", SMALL)
def test_outputs_and_maps_of_timm(name, image):
    config = small(name, image)
    peer = peer_of(config).eval()
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=2)
    load(peer, tensors)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        maps = peer.forward_intermediates(given, intermediates_only=True)
        expected = {
            place: each.permute(0, 2, 3, 1).numpy() for place, each in zip(config.intermediates, maps, strict=True)
        }
        features = peer.forward_features(given).permute(0, 2, 3, 1).numpy()
        expected |= {"forward_features": features, "logits": peer(given).numpy()}
    for outputs in outputs_of(config, tensors, images):
        found = {place: outputs[place] for place in expected}
        assert [each.shape for each in found.values()] == [each.shape for each in expected.values()]
        assert compare(found, expected).worst.relative_l2 <= PEERS.limit


@pytest.mark.parametrize("name", SMALL)
def test_how_a_map_is_fitted_to_patches_matters(name):
    config = small(name)
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=1)
    ways = [
        next(outputs_of(configs.replace(config, patch_fit=fit), tensors, images))["logits"]
        for fit in ("bilinear", "align_corners", "zeros")
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(ways[one] - ways[other]).max() > 1e6 * PEERS.limit * np.abs(ways[0]).max()


def nothing(name: str, gradients: dict[str, np.ndarray]) -> bool:
    """Whether a gradient is the noise of a sum that is 0, beside that of the weight with it."""
    beside = gradients[f"{name.rpartition('.')[0]}.weight"]
    return bool(np.abs(gradients[name]).max() <= PEERS.limit * np.abs(beside).max())


@pytest.mark.parametrize("name", SMALL)
def test_a_training_step_of_timm(name):
    """Logits of training mode, every gradient, and the statistics that BatchNorm has afterwards."""
    config = small(name)
    peer = peer_of(config).train()
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=4)
    load(peer, tensors)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    weights = np.random.default_rng(3).normal(size=(4, 7))
    (peer(given) * torch.from_numpy(weights)).sum().backward()
    statistics = {key: value.numpy() for key, value in state_of(peer).items() if "running" in key}
    gradients = {key: value.grad.numpy() for key, value in peer.named_parameters()}

    twin = vit_torch.create_model(config).double().train()
    vit_torch.state_dict.load_state_dict(twin, tensors)
    (twin(given) * torch.from_numpy(weights)).sum().backward()
    found = {key: value.grad.numpy() for key, value in twin.named_parameters()}
    seen = {key: value for key, value in gradients.items() if not nothing(key, gradients)}
    # What is the same everywhere on a map is nothing behind the mean that BatchNorm takes off.
    assert {key.rpartition(".")[2] for key in gradients.keys() - seen.keys()} == {"bias"}
    assert all(nothing(key, found) for key in gradients.keys() - seen.keys())
    assert compare({key: found[key] for key in seen}, seen).worst.relative_l2 <= PEERS.limit
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
    assert compare({key: found[key] for key in seen}, seen).worst.relative_l2 <= PEERS.limit
