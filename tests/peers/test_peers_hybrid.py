"""Hybrids against timm: names at full size, and outputs, tokens and gradients in float64 with the same parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from flax import nnx
from test_peers_swin import outputs_of
from timm.models import vision_transformer_hybrid as hybrid

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import configs
from parity.checkpoints import convert, open_checkpoint, parameter_shapes
from parity.checkpoints.formats.timm import our_name
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs import VitConfig
from parity.configs.hybrid import HYBRID
from parity.tolerances import FORWARD, PEERS

DATA = Path(__file__).parents[1] / "data"
# timm's hybrids with its own ResNets, of which no weights were published.
UNTRAINED = {name for name in timm.list_models(module="vision_transformer_hybrid") if "resnet" in name}
SIZES: dict[str, Any] = dict(embed_dim=48, depth=2, num_heads=4, num_classes=7)
# Maps of odd sides, where zeros are unequal on both sides of some and not of others.
CASES = [
    ("vit_tiny_r_s16_p8_224", (), (96, 160)),
    ("vit_small_r26_s32_224", (2, 1, 1, 1), (96, 160)),
    ("vit_base_r50_s16_224", (1, 2, 1), (80, 112)),
    ("vit_base_mci_224", (), (48, 80)),
]


def state_of(peer: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {key: value for key, value in peer.state_dict().items() if not key.endswith("num_batches_tracked")}
    return {our_name(key): value for key, value in found.items()}


def test_every_model_that_was_trained():
    assert set(timm.list_models(module="vision_transformer_hybrid")) - UNTRAINED == set(HYBRID)


@pytest.mark.parametrize("name", sorted(HYBRID))
def test_names_shapes_and_order_at_full_size(name):
    expected = parameter_shapes(configs.get(name))
    with torch.device("meta"):
        peer = timm.create_model(name, num_classes=configs.get(name).num_classes)
    assert {key: tuple(value.shape) for key, value in state_of(peer).items()} == expected
    assert list(state_of(peer)) == list(expected)


def pair(name: str, depths: tuple[int, ...], size: tuple[int, int]) -> tuple[VitConfig, torch.nn.Module]:
    """A small config, and timm's model of it."""
    config = VitConfig.of(configs.get(name, image_size=size, mlp_dim=192, stem_depths=depths, **SIZES))
    options: dict[str, Any] = dict(img_size=size, **SIZES)
    if config.stem == "mci":
        backbone = hybrid.ConvStem(
            channels=(12, 12, 48), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=torch.nn.GELU
        )
        peer = hybrid._create_vision_transformer_hybrid(
            name, backbone, embed_args=dict(proj=False), no_embed_class=True, **options
        )
    else:
        backbone = hybrid._resnetv2(depths)
        patch = dict(patch_size=8) if not depths else {}
        peer = hybrid._create_vision_transformer_hybrid(name, backbone, **patch, **options)
    return config, peer.double()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_outputs_and_tokens(case):
    config, peer = pair(*case)
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=2)
    theirs = {key: torch.from_numpy(tensors[our_name(key)]) for key in peer.state_dict() if our_name(key) in tensors}
    assert not peer.load_state_dict(theirs, strict=False).unexpected_keys
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        peer.eval()
        expected = {
            "patch_embed": peer.patch_embed(given).numpy(),
            "forward_features": peer.forward_features(given).numpy(),
            "logits": peer(given).numpy(),
        }
    for outputs in outputs_of(config, tensors, images):
        found = {place: outputs[place] for place in expected if place in outputs}
        assert {"forward_features", "logits"} <= set(found)
        assert compare(found, {place: expected[place] for place in found}).worst.relative_l2 <= PEERS.limit


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_gradients_and_statistics(case):
    config, peer = pair(*case)
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=3)
    theirs = {key: torch.from_numpy(tensors[our_name(key)]) for key in peer.state_dict() if our_name(key) in tensors}
    peer.load_state_dict(theirs, strict=False)
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    weights = np.random.default_rng(3).normal(size=(3, 7))
    (peer.train()(given) * torch.from_numpy(weights)).sum().backward()
    gradients = {our_name(key): value.grad.numpy() for key, value in peer.named_parameters()}
    statistics = {key: value.numpy() for key, value in state_of(peer).items() if "running" in key}

    twin = vit_torch.create_model(config).double().train()
    vit_torch.state_dict.load_state_dict(twin, tensors)
    (twin(given) * torch.from_numpy(weights)).sum().backward()
    found = {key: value.grad.numpy() for key, value in twin.named_parameters()}
    after = vit_torch.state_dict.state_dict(twin)
    assert (
        compare(found | {key: after[key] for key in statistics}, gradients | statistics).worst.relative_l2
        <= PEERS.limit
    )

    with jax.enable_x64(True):
        model = vit_jax.create_model(config, rngs=nnx.Rngs(0))
        vit_jax.state_dict.load_state_dict(model, tensors)
        model.train()
        step = nnx.jit(nnx.grad(lambda model, images, weights: (model(images) * weights).sum()))
        grads = step(model, jnp.asarray(images), jnp.asarray(weights))
        after = vit_jax.state_dict.state_dict(model)
        nnx.update(model, grads)
        found = vit_jax.state_dict.state_dict(model)
    found = {key: found[key] for key in gradients} | {key: after[key] for key in statistics}
    assert compare(found, gradients | statistics).worst.relative_l2 <= PEERS.limit


def google(arrays: dict[str, np.ndarray], images: np.ndarray, depths: tuple[int, ...]) -> jax.Array:
    """The map of Google's ResNet, written after its description: XLA pads, and deviations are those of NumPy's kind."""

    def conv(name: str, x: jax.Array, stride: int = 1) -> jax.Array:
        kernel = arrays[f"{name}/kernel"]
        kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(name: str, x: jax.Array) -> jax.Array:
        groups = x.reshape(*x.shape[:3], 32, -1)
        mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
        x = ((groups - mean) / jnp.sqrt(var + 1e-6)).reshape(x.shape)
        return x * arrays[f"{name}/scale"].reshape(-1) + arrays[f"{name}/bias"].reshape(-1)

    x = jax.nn.relu(norm("gn_root", conv("conv_root", images, 2)))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for stage, depth in enumerate(depths, 1):
        for unit in range(1, depth + 1):
            name, stride = f"block{stage}/unit{unit}", 2 if stage > 1 and unit == 1 else 1
            y = jax.nn.relu(norm(f"{name}/gn1", conv(f"{name}/conv1", x)))
            y = jax.nn.relu(norm(f"{name}/gn2", conv(f"{name}/conv2", y, stride)))
            y = norm(f"{name}/gn3", conv(f"{name}/conv3", y))
            shortcut = norm(f"{name}/gn_proj", conv(f"{name}/conv_proj", x, stride)) if unit == 1 else x
            x = jax.nn.relu(shortcut + y)
    kernel = arrays["embedding/kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, kernel, kernel.shape[:2], "VALID", dimension_numbers=layout)
    return (x + arrays["embedding/bias"]).reshape(x.shape[0], -1, x.shape[-1])


@pytest.mark.parametrize("pattern", ["hybrid R+Ti/16 stem only", "hybrid R26 /32 (2,2,2,2)", "hybrid R50+B/16 (3,4,9)"])
def test_files_of_google(pattern, tmp_path):
    """The tensors are those that timm's own loader takes; the tokens are those of Google's code, in float64."""
    shapes = json.loads((DATA / "npz_names.json").read_text())[pattern]
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "file.npz", **{name: value.astype(np.float32) for name, value in arrays.items()})
    found = open_checkpoint(tmp_path / "file.npz")
    config = VitConfig.of(found.config)
    patch = dict(patch_size=8) if not config.stem_depths else {}
    peer = hybrid._create_vision_transformer_hybrid(
        "vit_tiny_r_s16_p8_224",
        hybrid._resnetv2(config.stem_depths),
        embed_dim=64,
        depth=2,
        num_heads=2,
        num_classes=1000,
        **patch,
    )
    peer.load_pretrained(str(tmp_path / "file.npz"))
    state = {key: value.numpy() for key, value in state_of(peer).items()}
    same = {key: np.array_equal(value, found.tensors[key]) for key, value in state.items()}
    assert same == dict.fromkeys(state, True)
    single = {name: value.astype(np.float32).astype(np.float64) for name, value in arrays.items()}
    height, width = config.patch_size
    config = configs.replace(config, image_size=(3 * height, 5 * width))
    images = random_images(config, batch_size=2)
    with jax.enable_x64(True):
        expected = {"tokens": np.asarray(google(single, jnp.asarray(images), config.stem_depths))}
        embed = vit_jax.create_model(config, rngs=nnx.Rngs(0))
        tensors = random_parameters(parameter_shapes(config))
        tensors |= {key: np.asarray(value, np.float64) for key, value in state.items() if key.startswith("patch_embed")}
        vit_jax.state_dict.load_state_dict(embed, tensors)
        flax = {"tokens": np.asarray(embed.patch_embed(jnp.asarray(images)))}
    twin = vit_torch.create_model(config).double()
    vit_torch.state_dict.load_state_dict(twin, tensors)
    with torch.no_grad():
        given = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        pytorch = {"tokens": twin.patch_embed(given).numpy()}
    for outputs in (flax, pytorch):
        assert compare(outputs, expected).worst.relative_l2 <= PEERS.limit


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224", "vit_base_mci_224"])
def test_a_directory_goes_to_timm_and_back(name, tmp_path):
    sizes = dict(embed_dim=48, depth=1, num_heads=4) if name != "vit_base_mci_224" else dict(depth=1)
    peer = timm.create_model(name, num_classes=5, **sizes).eval()
    timm.models.save_for_hf(peer, tmp_path / "theirs", model_args=sizes, safe_serialization=True)
    found = open_checkpoint(tmp_path / "theirs")
    alone = open_checkpoint(tmp_path / "theirs" / "model.safetensors", num_heads=peer.blocks[0].attn.num_heads)
    assert all(np.array_equal(alone.tensors[key], found.tensors[key]) for key in found.tensors)
    assert getattr(alone.config, "stem", None) == getattr(found.config, "stem", None)
    convert(tmp_path / "theirs", tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "back", to="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    twin = vit_torch.load(tmp_path / "back").eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(again(images), peer(images))
        expected = {"logits": peer(images).numpy()}
        assert compare({"logits": twin(images).numpy()}, expected).worst.relative_l2 <= FORWARD["float32"].limit
