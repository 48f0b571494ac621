"""Both twins against timm's own forward pass with the same random parameters, in float64.

Twins can share a mistake; timm is an implementation that we didn't write. Widths, heads, patches and options are those
of the registered model, the depth is 2 and the grid small and not square. Models that differ in nothing that a forward
pass sees share our outputs, and each is held against its own timm model.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import timm
import torch
from flax import nnx

import vit_jax
import vit_torch
from parity import configs
from parity.checkpoints import parameter_shapes
from parity.checks.parameters import random_images, random_parameters
from parity.checks.reduced import distinct
from parity.compare import compare
from parity.configs import Config
from parity.tolerances import FORWARD

LIMIT = FORWARD["float64"].limit
GROUPS = distinct(sorted(set(configs.names()) & set(timm.list_models())), depth=2)

Outputs = dict[str, np.ndarray]


def run_flax(config: Config, tensors: Outputs, images: np.ndarray) -> Outputs:
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))
        vit_jax.state.load_state_dict(model, tensors)
        graphdef, state = nnx.split(model)

        def run(state: nnx.State, images: jax.Array) -> list[jax.Array]:
            model = nnx.merge(graphdef, state)
            return [*model.forward_intermediates(images), model.forward_features(images), model(images)]

        return named([np.asarray(output) for output in jax.jit(run)(state, images)])


def run_torch(config: Config, tensors: Outputs, images: np.ndarray) -> Outputs:
    model = vit_torch.create_model(config, device="meta").eval()
    vit_torch.state.load_state_dict(model, tensors)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        outputs = [*model.forward_intermediates(pixels), model.forward_features(pixels), model(pixels)]
    return named([output.numpy() for output in outputs])


def run_peer(peer: torch.nn.Module, images: np.ndarray) -> Outputs:
    blocks: list[torch.Tensor] = []
    for block in peer.blocks:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        features = peer.forward_features(pixels)
        logits = peer.forward_head(features)
    return named([output.numpy() for output in (*blocks, features, logits)])


def named(outputs: list[np.ndarray]) -> Outputs:
    blocks = [f"blocks.{i}" for i in range(len(outputs) - 2)]
    return dict(zip([*blocks, "forward_features", "logits"], outputs, strict=True))


@pytest.mark.parametrize("config", GROUPS, ids=[names[0] for names in GROUPS.values()])
def test_forward(config, make_peer):
    tensors = random_parameters(parameter_shapes(config))
    images = random_images(config, batch_size=2)
    ours = {"flax": run_flax(config, tensors, images), "torch": run_torch(config, tensors, images)}
    for name in GROUPS[config]:
        peer = make_peer(name, tensors, depth=config.depth, img_size=config.image_size, num_classes=config.num_classes)
        expected = run_peer(peer, images)
        for side, outputs in ours.items():
            comparison = compare(outputs, expected)
            assert comparison.ok(LIMIT), (name, side, comparison.worst)


@pytest.mark.parametrize(
    "change", [{"norm_eps": 2e-6}, {"act": "gelu_tanh"}, {"pos_embed_prefix": False}, {"qkv_bias": False}]
)
def test_the_comparison_can_fail(change, make_peer):
    """Our config with one numeric or option wrong, and timm's model as it is."""
    name = "vit_tiny_patch16_224"
    config = next(config for config, names in GROUPS.items() if name in names)
    tensors = random_parameters(parameter_shapes(config))
    images = random_images(config, batch_size=2)
    peer = make_peer(name, tensors, depth=config.depth, img_size=config.image_size, num_classes=config.num_classes)
    expected = run_peer(peer, images)
    changed = configs.replace(config, **change)
    if parameter_shapes(changed) == parameter_shapes(config):
        assert not compare(run_torch(changed, tensors, images), expected).ok(LIMIT)
    else:
        with pytest.raises(ValueError, match="expected tensors don't fit"):
            run_torch(changed, tensors, images)


def test_the_logits_of_a_distilled_model_are_the_mean_of_its_heads(make_peer):
    config = configs.get("deit_tiny_distilled_patch16_224", depth=1)
    tensors = random_parameters(parameter_shapes(config))
    peer = make_peer("deit_tiny_distilled_patch16_224", tensors, depth=1)
    images = random_images(config, batch_size=1)
    peer.distilled_training = True
    peer.train()
    with torch.no_grad():
        heads = peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = {"logits": ((heads[0] + heads[1]) / 2).numpy()}
    for run in (run_flax, run_torch):
        assert compare({"logits": run(config, tensors, images)["logits"]}, expected).ok(LIMIT)
