"""What we write loads into timm, and what timm writes loads here: whole models, in both frameworks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import vit_jax
import vit_torch
from benchmarks import timm_peer
from parity import checkpoints, configs
from parity.checkpoints import parameter_shapes
from parity.checks.forward import run_torch
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare, not_identical
from parity.configs import Execution
from parity.tolerances import PEERS
from vit_torch.state_dict import from_numpy

MODELS = ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]
SIDES = {"flax": vit_jax, "torch": vit_torch}


def parameters(name: str, **overrides: object) -> dict[str, np.ndarray]:
    shapes = parameter_shapes(configs.get(name, **overrides))
    return {key: value.astype(np.float32) for key, value in random_parameters(shapes).items()}


def saved(side: str, name: str, directory: Path, **overrides: object) -> dict[str, np.ndarray]:
    """The parameters of a model that one side has written."""
    tensors = parameters(name, **overrides)
    checkpoints.write(directory / "made", configs.get(name, **overrides), tensors, name=name)
    SIDES[side].save(SIDES[side].load(directory / "made"), directory / "native", name=name)
    return tensors


def held(path: Path) -> list[dict[str, np.ndarray]]:
    return [side.state_dict.state_dict(side.load(path)) for side in SIDES.values()]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_our_file_loads_into_timm(name, side, tmp_path):
    tensors = saved(side, name, tmp_path)
    peer = timm.create_model(name)
    peer.load_state_dict(load_file(tmp_path / "native" / "model.safetensors"), strict=True)
    assert not_identical({key: value.numpy() for key, value in peer.state_dict().items()}, tensors) == ()


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_timm_loads_here(name, tmp_path):
    tensors = parameters(name)
    peer = timm.create_model(name)
    peer.load_state_dict({key: from_numpy(value) for key, value in tensors.items()})
    save_file(peer.state_dict(), tmp_path / "timm.safetensors")
    checkpoints.convert(tmp_path / "timm.safetensors", tmp_path / "converted", model=name)
    for found in held(tmp_path / "converted"):
        assert not_identical(found, tensors) == ()


@pytest.mark.parametrize("name", MODELS)
def test_the_directory_that_timm_writes_loads_here(name, tmp_path):
    tensors = parameters(name, num_classes=7)
    peer = timm.create_model(name, num_classes=7)
    peer.load_state_dict({key: from_numpy(value) for key, value in tensors.items()})
    save_for_hf(peer, str(tmp_path / "timm"), safe_serialization=True)
    for side, found in zip(SIDES.values(), held(tmp_path / "timm"), strict=True):
        assert not_identical(found, tensors) == ()
        assert side.load(tmp_path / "timm").config == configs.get(name, num_classes=7)


@pytest.mark.parametrize("side", SIDES)
def test_timm_opens_the_directory_that_we_write_for_it(side, tmp_path):
    name, overrides = "deit_tiny_distilled_patch16_224", dict(num_classes=7, depth=3, image_size=(32, 48))
    tensors = saved(side, name, tmp_path, **overrides)
    checkpoints.convert(tmp_path / "native", tmp_path / "timm", to="timm")
    peer = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert not_identical({key: value.numpy() for key, value in peer.state_dict().items()}, tensors) == ()
    images = random_images(configs.get(name, **overrides), batch_size=2).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        assert torch.equal(vit_torch.load(tmp_path / "timm")(pixels), vit_torch.load(tmp_path / "native")(pixels))
        assert peer(pixels).shape == (2, 7)


WRITTEN = {
    "eva02_small_patch14_224": {},
    "beit_base_patch16_224": {},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_rope_mixed_224": {},
    "vit_base_patch32_clip_224": {"head_bias": False},
    "vit_base_patch16_siglip_gap_224": {"num_classes": 5, "fc_norm": True, "final_norm": False},
    "vit_tiny_patch16_224": {
        "embed_dim": 96,
        "mlp_dim": 250,
        "act": "gelu_tanh",
        "reg_tokens": 2,
        "global_pool": "avg",
    },
}


@pytest.mark.parametrize("name", WRITTEN)
def test_timm_runs_what_we_write_as_we_do(name, tmp_path):
    """Options that timm's arguments express, and those of its other classes; timm loads strictly."""
    patch = configs.get(name).patch_size[0]
    config = configs.replace(configs.get(name, image_size=(2 * patch, 3 * patch)).shortened(2), **WRITTEN[name])
    tensors = {key: value.astype(np.float32) for key, value in random_parameters(parameter_shapes(config)).items()}
    checkpoints.write(tmp_path / "native", config, tensors)
    checkpoints.convert(tmp_path / "native", tmp_path / "timm", to="timm")
    with timm_peer.float64_rope():
        peer = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).double().eval()
        expected = timm_peer.run(peer, random_images(config, batch_size=2))
    found, _ = run_torch(
        config,
        {key: value.astype(np.float64) for key, value in tensors.items()},
        random_images(config, 2),
        Execution(),
        None,
    )
    assert compare({key: found[key] for key in expected}, expected).ok(PEERS.limit)
    back = checkpoints.open_checkpoint(tmp_path / "timm")
    assert configs.replace(back.config, head_bias=config.head_bias) == config
    zero_bias = {} if config.head_bias else {"head.bias": np.zeros(config.num_classes, np.float32)}
    assert not_identical(back.tensors, tensors | zero_bias) == ()


def test_what_timm_can_not_express_is_refused_and_nothing_is_written(tmp_path):
    config = configs.get("vit_tiny_patch16_224", depth=1, norm_eps=1e-12)
    tensors = {key: np.ones(shape, np.float32) for key, shape in parameter_shapes(config).items()}
    checkpoints.write(tmp_path / "native", config, tensors, name="vit_tiny_patch16_224")
    with pytest.raises(checkpoints.CheckpointError, match=r"norm_eps is 1e-12, not .*--numerics timm"):
        checkpoints.convert(tmp_path / "native", tmp_path / "timm", to="timm")
    assert not (tmp_path / "timm").exists()
    checkpoints.convert(tmp_path / "native", tmp_path / "timm", to="timm", numerics="timm")
    assert timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).norm.eps == 1e-6
