"""Both twins against timm's own forward pass with the same random parameters, in float64.

Twins can share a mistake; timm is an implementation that we didn't write. Every architecture of timm's four modules of
flat ViTs is here: those that differ in size alone share our outputs, and each is held against its own timm model.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks import coverage, timm_peer
from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checks.forward import run_flax, run_torch
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import PEERS

GROUPS = coverage.option_sets()


def test_every_architecture_is_in_a_group():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(
        {entry.partition(".")[0] for entry in timm_peer.entries()}
    )


@pytest.mark.parametrize("config", GROUPS, ids=[names[0] for names in GROUPS.values()])
def test_forward(config):
    found = coverage.check_options(config, GROUPS[config])
    assert max(found.torch, found.flax) <= PEERS.limit, found


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vit_tiny_patch16_224", {"norm_eps": 2e-6}),
        ("vit_tiny_patch16_224", {"act": "gelu_tanh"}),
        ("vit_tiny_patch16_224", {"pos_embed_prefix": "none"}),
        ("vit_tiny_patch16_224", {"qkv_bias": False}),
        ("vit_base_patch16_rpn_224", {"block": "pre_norm"}),
        ("vit_base_patch16_dinov3", {"rope": configs.Rope(kind="centered", temperature=100.0)}),
        ("vit_base_patch16_rope_224", {"rope": configs.Rope(temperature=100.0)}),
        ("vit_pe_core_base_patch16_224", {"pool_include_prefix": False}),
        ("beit_base_patch16_224", {"rel_pos_bias": "none"}),
    ],
)
def test_the_comparison_can_fail(name, change):
    """Our config with one numeric or option wrong, and timm's model as it is."""
    config = next(config for config, names in GROUPS.items() if name in names)
    tensors = random_parameters(parameter_shapes(config))
    images = random_images(config, batch_size=2)
    with timm_peer.float64_rope():
        expected = timm_peer.run(timm_peer.reduced_model(name, config, tensors), images)
    changed = configs.replace(config, **change)
    if parameter_shapes(changed) == parameter_shapes(config):
        for outputs in (
            run_torch(changed, tensors, images, Execution(), None)[0],
            run_flax(changed, tensors, images, Execution())[0],
        ):
            shared = {place: outputs[place] for place in expected}
            assert compare(shared, expected).worst.relative_l2 > 1e3 * PEERS.limit
    else:
        with pytest.raises(ValueError, match="expected tensors don't fit"):
            run_torch(changed, tensors, images, Execution(), None)


def test_the_logits_of_a_distilled_model_are_the_mean_of_its_heads():
    name = "deit_tiny_distilled_patch16_224"
    config = next(config for config, names in GROUPS.items() if name in names)
    tensors = random_parameters(parameter_shapes(config))
    images = random_images(config, batch_size=1)
    peer = timm_peer.reduced_model(name, config, tensors)
    peer.distilled_training = True
    peer.train()
    with torch.no_grad():
        heads = peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = {"logits": ((heads[0] + heads[1]) / 2).numpy()}
    for outputs in (
        run_torch(config, tensors, images, Execution(), None)[0],
        run_flax(config, tensors, images, Execution())[0],
    ):
        assert compare({"logits": outputs["logits"]}, expected).ok(PEERS.limit)
