"""Canonical names are timm's, and so are preprocessing and defaults: of every registered model, without allocating."""

from __future__ import annotations

import pytest
import timm
import torch

from parity import configs
from parity.checkpoints import parameter_shapes

ARCHITECTURES = sorted(set(configs.names()) & set(timm.list_models()))
# Small models for tests and for the digits.
OURS_ALONE = [*configs.names("vit_test*"), "vit_digits"]


def test_every_registered_model_but_our_own_is_one_of_timm():
    assert sorted([*ARCHITECTURES, *OURS_ALONE]) == configs.names()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_shapes(name):
    with torch.device("meta"):
        peer = timm.create_model(name)
    config = configs.get(name)
    assert {key: tuple(value.shape) for key, value in peer.state_dict().items()} == parameter_shapes(config)
    assert peer.num_classes == config.num_classes
    assert peer.patch_embed.img_size == config.image_size
    assert peer.patch_embed.patch_size == config.patch_size


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_preprocessing(name):
    expected = timm.get_pretrained_cfg(name)
    images = configs.get(name).preprocessing
    assert (images.mean, images.std) == (tuple(expected.mean), tuple(expected.std))
    assert images.interpolation == expected.interpolation
    assert images.crop_pct == expected.crop_pct
    assert images.crop_mode == (expected.crop_mode or "center")


def test_the_comparisons_can_fail():
    with torch.device("meta"):
        peer = timm.create_model("vit_tiny_patch16_224")
    shapes = {key: tuple(value.shape) for key, value in peer.state_dict().items()}
    assert shapes != parameter_shapes(configs.get("deit_tiny_distilled_patch16_224"))
    assert shapes != parameter_shapes(configs.get("vit_tiny_patch16_224", image_size=32))
