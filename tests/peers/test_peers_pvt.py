"""Pyramid Vision Transformers against timm and transformers, in float64, with the same parameters."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import timm
import torch
from test_peers_swin import outputs_of

from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs.pvt import PvtConfig
from parity.tolerances import PEERS

NAMES = sorted(PvtConfig.registered)
SIZES = dict(depths=(2, 1, 2, 2), embed_dims=(24, 30, 40, 56), num_heads=(1, 2, 5, 7), num_classes=7)
MLP = dict(mlp_dims=(48, 90, 40, 112))
RATIOS = (2, 3, 1, 2)
# Maps of 16 x 13, 8 x 7, 4 x 4 and 2 x 2; of 9 x 23 and so on.
IMAGES = [(61, 52), (36, 90)]


def small(name: str, **changes) -> PvtConfig:
    return PvtConfig.of(configs.get(name, **dict(image_size=IMAGES[0]) | SIZES | MLP | changes))


@cache
def distinct() -> dict[PvtConfig, str]:
    """A name for each set of options."""
    return {small(name): name for name in reversed(NAMES)}


def test_every_model_of_timms_module_is_here():
    assert sorted(timm.list_models(module="pvt_v2")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_at_full_size(name):
    with torch.device("meta"):
        peer = timm.create_model(name, num_classes=1000)
    assert {key: tuple(value.shape) for key, value in peer.state_dict().items()} == parameter_shapes(configs.get(name))
    assert list(peer.state_dict()) == list(parameter_shapes(configs.get(name)))
    images = peer.pretrained_cfg
    ours = configs.get(name).preprocessing
    assert (ours.crop_pct, ours.interpolation, ours.mean) == (
        images["crop_pct"],
        images["interpolation"],
        images["mean"],
    )


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("config", distinct(), ids=distinct().values())
def test_outputs_and_maps_of_timm(config, image):
    config = configs.replace(config, image_size=image)
    peer = timm.create_model(distinct()[configs.replace(config, image_size=IMAGES[0])], mlp_ratios=RATIOS, **SIZES)
    peer = peer.double().eval()
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=2)
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        maps = peer.forward_intermediates(given, intermediates_only=True)
        expected = {f"stages.{i}": each.permute(0, 2, 3, 1).numpy() for i, each in enumerate(maps)}
        features = peer.forward_features(given).permute(0, 2, 3, 1).numpy()
        expected |= {"forward_features": features, "logits": peer(given).numpy()}
    for outputs in outputs_of(config, tensors, images):
        found = {place: outputs[place] for place in expected}
        assert [each.shape for each in found.values()] == [each.shape for each in expected.values()]
        assert compare(found, expected).worst.relative_l2 <= PEERS.limit


def test_the_two_epsilons_matter():
    config = small("pvt_v2_b1")
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=1)
    one = configs.replace(config, embed_norm_eps=config.norm_eps)
    ways = [next(outputs_of(each, tensors, images))["logits"] for each in (config, one)]
    assert np.abs(ways[0] - ways[1]).max() > 1e3 * PEERS.limit * np.abs(ways[0]).max()
