"""Convolutional stems: torchvision's own, and DeiT III's hMLP stem as PyTorch's layers make it."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from format_peers import randomised
from safetensors.torch import load_file
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

from parity import checkpoints, configs
from parity.checkpoints.shapes import is_statistic
from parity.checks.forward import run_flax, run_torch
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import PEERS
from vit_torch.state_dict import from_numpy

# Channels, kernel and stride: odd kernels and even ones, strides of 1.
CONVS = {"16": ((12, 3, 2), (20, 3, 2), (28, 5, 1), (36, 2, 2), (44, 3, 2)), "4": ((12, 3, 2), (20, 3, 2))}
# What torchvision calls the rest, and we.
NAMES = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "encoder.layers.encoder_layer_": "blocks.",
    ".ln_1": ".norm1",
    ".ln_2": ".norm2",
    ".self_attention.in_proj_": ".attn.qkv.",
    ".self_attention.out_proj": ".attn.proj",
    ".mlp.0": ".mlp.fc1",
    ".mlp.3": ".mlp.fc2",
    "encoder.ln": "norm",
    "heads.head": "head",
}
SIZES = dict(num_layers=2, num_heads=12, hidden_dim=48, mlp_dim=80, num_classes=10)


def canonical(name: str, depth: int) -> str:
    """A tensor of torchvision's by our name; `depth` convolutions come before the last one."""
    if not name.startswith("conv_proj."):
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        return name
    _, stem, rest = name.split(".", 2)
    if stem == "conv_last":
        return f"patch_embed.stem.{depth}.conv.{rest}"
    layer, _, kind = rest.partition(".")
    return f"patch_embed.stem.{stem.rpartition('_')[2]}.{('conv', 'norm')[int(layer)]}.{kind}"


def with_statistics(module: nn.Module) -> nn.Module:
    """Random parameters, and statistics that aren't 0 and 1."""
    module = randomised(module)
    for name, value in module.named_buffers():
        if is_statistic(name):
            value.copy_(from_numpy(random_parameters({name: tuple(value.shape)})[name]))
    return module


def run(config: configs.Config, tensors: dict[str, np.ndarray], images: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Outputs of both twins."""
    sides = run_torch(config, tensors, images, Execution(), None), run_flax(config, tensors, images, Execution())
    assert all(faults == [] for _, faults in sides)
    return [outputs for outputs, _ in sides]


def tensors_of(module: nn.Module) -> dict[str, np.ndarray]:
    """All but the number of batches that the statistics were taken over, which no output depends on."""
    state = module.state_dict()
    return {name: value.numpy() for name, value in state.items() if not name.endswith("num_batches_tracked")}


def distance(found: np.ndarray, expected: torch.Tensor) -> float:
    return compare({"x": found}, {"x": expected.numpy()}).worst.relative_l2  # type: ignore[union-attr]


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("patch", CONVS)
def test_torchvisions_stem(patch):
    convs, size = CONVS[patch], int(patch)
    settings = [ConvStemConfig(out_channels=c, kernel_size=k, stride=s) for c, k, s in convs]
    sizes = dict(image_size=3 * size, patch_size=size)
    peer = with_statistics(VisionTransformer(conv_stem_configs=settings, **sizes, **SIZES))
    config = configs.get("vit_test_conv_stem", stem_convs=convs, num_heads=12, depth=2, **sizes)
    ours = {canonical(name, len(convs)): value for name, value in tensors_of(peer).items()}
    images = random_images(config, 2)
    with torch.inference_mode():
        expected, logits = peer._process_input(pixels(images)), peer(pixels(images))
    for outputs in run(config, ours, images):
        assert distance(outputs["patch_embed"], expected) <= PEERS.limit
        assert distance(outputs["logits"], logits) <= PEERS.limit
    for outputs in run(configs.replace(config, stem_norm_eps=1e-6), ours, images):
        assert distance(outputs["patch_embed"], expected) > 1e3 * PEERS.limit


@pytest.mark.parametrize("patch", CONVS)
def test_a_file_of_torchvision_with_a_stem_and_back(patch, tmp_path):
    """Alone its strides are said; what is written has them. The statistics come along, the counters don't."""
    convs, size = CONVS[patch], int(patch)
    settings = [ConvStemConfig(out_channels=c, kernel_size=k, stride=s) for c, k, s in convs]
    sizes = dict(image_size=3 * size, patch_size=size) | SIZES
    peer = with_statistics(VisionTransformer(conv_stem_configs=settings, **sizes))
    torch.save({"model": peer.state_dict()}, tmp_path / "file.pth")
    found = checkpoints.open_checkpoint(tmp_path / "file.pth", num_heads=12, stem_convs=convs)
    images = random_images(found.config, 2)
    with torch.inference_mode():
        expected = peer(pixels(images))
    tensors = {name: np.asarray(value) for name, value in found.tensors.items()}
    for outputs in run(found.config, tensors, images):
        assert distance(outputs["logits"], expected) <= PEERS.limit
    checkpoints.convert(found, tmp_path / "written", to="torchvision")
    arguments = json.loads((tmp_path / "written" / "torchvision.json").read_text())["arguments"]
    configs_of_stem = [ConvStemConfig(**entry) for entry in arguments.pop("conv_stem_configs")]
    again = VisionTransformer(conv_stem_configs=configs_of_stem, **arguments).double().eval()
    again.load_state_dict(load_file(tmp_path / "written" / "model.safetensors"), strict=True)
    with torch.inference_mode():
        assert torch.equal(again(pixels(images)), expected)


def hmlp(dim: int) -> nn.Module:
    """As `hMLP_stem` of DeiT III's `models_v2.py` says: BatchNorm after each convolution, GELU between."""
    conv = partial(nn.Conv2d, bias=True)
    return nn.Sequential(
        conv(3, dim // 4, 4, 4),
        nn.BatchNorm2d(dim // 4),
        nn.GELU(),
        conv(dim // 4, dim // 4, 2, 2),
        nn.BatchNorm2d(dim // 4),
        nn.GELU(),
        conv(dim // 4, dim, 2, 2),
        nn.BatchNorm2d(dim),
    )


def test_the_hmlp_stem():
    config = configs.get("vit_test_hmlp_stem")
    peer = with_statistics(hmlp(config.embed_dim))
    ours = random_parameters(checkpoints.parameter_shapes(config))
    for name, value in tensors_of(peer).items():
        number, _, kind = name.partition(".")
        layer = ("conv", "norm")[int(number) % 3]
        ours[f"patch_embed.stem.{int(number) // 3}.{layer}.{kind}"] = value
    images = random_images(config, 2)
    with torch.inference_mode():
        expected = peer(pixels(images)).flatten(2).transpose(1, 2)
    for outputs in run(config, ours, images):
        assert distance(outputs["patch_embed"], expected) <= PEERS.limit
