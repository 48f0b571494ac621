"""Checkpoints at other sizes against the loading code of timm, transformers and torchvision."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_patch_embed, resize_rel_pos_bias_table
from timm.layers.patch_embed import _compute_resize_matrix
from torchvision.models.vision_transformer import interpolate_embeddings
from transformers import (
    BeitConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    SiglipVisionConfig,
    ViTConfig,
)
from transformers.models.beit.modeling_beit import BeitRelativePositionBias
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings
from transformers.models.vit.modeling_vit import ViTEmbeddings

import vit_jax
import vit_torch
from parity import checkpoints, configs
from parity.checkpoints import parameter_shapes
from parity.checkpoints.resize import resize_grid, resize_patch_kernel, resize_rel_pos_table
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.tolerances import FORWARD, PSEUDO_INVERSE, RESIZE, RESIZE_FLOAT32

# What PyTorch says to timm's interpolation of tables.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning"),
]

# Entries for all prefix tokens, for none of them, tables of distances, rotary positions, FlexiViT's patches.
MODELS = {
    "vit_tiny_patch16_224": ((96, 64), (8, 16)),
    "deit_tiny_distilled_patch16_224": ((96, 160), (16, 16)),
    "vit_small_patch14_reg4_dinov2": ((140, 84), (14, 12)),
    "deit3_small_patch16_224": ((128, 128), (32, 32)),
    "flexivit_small": ((240, 240), (30, 30)),
    "beit_base_patch16_224": ((80, 96), (16, 16)),
    "eva02_tiny_patch14_336": ((140, 98), (14, 14)),
}
SQUARE = {name: (image[0], patch[0]) for name, (image, patch) in MODELS.items() if image[0] % patch[0] == 0}


StateDict = dict[str, torch.Tensor]


def made(name: str, directory: Path) -> tuple[timm.models.VisionTransformer, Path]:
    """timm's model with our parameters, and our checkpoint."""
    config = configs.get(name, depth=1, num_classes=5)
    tensors = {key: value.astype(np.float32) for key, value in random_parameters(parameter_shapes(config)).items()}
    checkpoints.write(directory / "model", config, tensors, name=name)
    peer = timm.create_model(name, depth=1, num_classes=5).eval()
    peer.load_state_dict(as_timm(config, tensors, name, directory), strict=True)
    return peer, directory / "model"


def as_timm(config: configs.Config, tensors: Mapping[str, np.ndarray], name: str, directory: Path) -> StateDict:
    """Parameters by timm's names, which are ours but for a few models."""
    with TemporaryDirectory(dir=directory) as scratch:
        checkpoints.write(Path(scratch, "native"), config, tensors, name=name)
        checkpoints.convert(Path(scratch, "native"), Path(scratch, "timm"), to="timm")
        return load_file(Path(scratch, "timm", "model.safetensors"))


def agree(ours: StateDict, theirs: StateDict) -> bool:
    left, right = ({key: value.numpy() for key, value in state.items()} for state in (ours, theirs))
    return compare(left, right).ok(RESIZE_FLOAT32.limit)


@pytest.mark.parametrize("name", MODELS)
def test_timm_set_input_size(name, tmp_path):
    image_size, patch_size = MODELS[name]
    peer, path = made(name, tmp_path)
    peer.set_input_size(img_size=image_size, patch_size=patch_size)
    sizes = dict(image_size=image_size, patch_size=patch_size)
    config, found = checkpoints.adapt(checkpoints.open_checkpoint(path), **sizes)
    ours = as_timm(config, found, name, tmp_path)
    assert agree(ours, peer.state_dict())
    # With the same parameters to the bit: what isn't a parameter must have followed, too.
    peer.load_state_dict(ours, strict=True)
    images = random_images(config, batch_size=2).astype(np.float32)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        theirs, logits = peer(pixels).numpy(), vit_torch.load(path, **sizes)(pixels).numpy()
    flax = np.asarray(vit_jax.load(path, **sizes)(images))
    assert compare({"logits": logits}, {"logits": theirs}).ok(FORWARD["float32"].limit)
    assert compare({"logits": flax}, {"logits": theirs}).ok(FORWARD["float32"].limit)


@pytest.mark.parametrize("name", SQUARE)
def test_timm_loads_a_file_at_another_size(name, tmp_path):
    image_size, patch_size = SQUARE[name]
    peer, path = made(name, tmp_path)
    resized = timm.create_model(name, depth=1, num_classes=5, img_size=image_size, patch_size=patch_size)
    load = sys.modules[type(peer).__module__].checkpoint_filter_fn
    resized.load_state_dict(load(peer.state_dict(), resized), strict=True)
    config, found = checkpoints.adapt(checkpoints.open_checkpoint(path), image_size=image_size, patch_size=patch_size)
    assert agree(as_timm(config, found, name, tmp_path), resized.state_dict())


@contextmanager
def float64() -> Iterator[None]:
    """timm's grids and matrices are made in the default type."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((7, 5), (4, 9)), ((14, 14), (24, 24)), ((5, 6), (5, 9))])
def test_timm_tables(old, new):
    rng = np.random.default_rng(0)
    # float32's numbers, since timm rounds the table to them.
    table = rng.standard_normal(((2 * old[0] - 1) * (2 * old[1] - 1) + 3, 4)).astype(np.float32).astype(np.float64)
    shape = ((2 * new[0] - 1) * (2 * new[1] - 1) + 3, 4)
    with float64():
        expected = resize_rel_pos_bias_table(torch.from_numpy(table), new, shape, old_window_size=old).numpy()
    found = resize_rel_pos_table(table, old, new, "geometric")
    assert found.dtype == expected.dtype == np.float64
    assert compare({"table": found}, {"table": expected}).ok(RESIZE.limit)


@pytest.mark.parametrize("new", [(8, 8), (24, 20), (14, 14), (32, 32)])
def test_timm_patch_kernels(new):
    kernel = np.random.default_rng(0).standard_normal((4, 3, 16, 16))
    matrix = _compute_resize_matrix((16, 16), new, "bicubic", True, torch.device("cpu"), torch.float64)
    expected = kernel.reshape(4, 3, -1) @ torch.linalg.pinv(matrix).numpy()
    found = resize_patch_kernel(kernel, new, "bicubic_antialias")
    assert compare({"kernel": found}, {"kernel": expected.reshape(4, 3, *new)}).ok(PSEUDO_INVERSE.limit)
    for interpolation, antialias in (("bicubic", True), ("bilinear", False)):
        ours = resize_patch_kernel(kernel, new, f"{interpolation}_antialias" if antialias else interpolation)
        theirs = resample_patch_embed(torch.from_numpy(kernel), list(new), interpolation, antialias).numpy()
        assert compare({"kernel": ours}, {"kernel": theirs}).ok(RESIZE_FLOAT32.limit)


HUGGING_FACE = {
    "ViT": (ViTEmbeddings, ViTConfig, "bicubic", RESIZE),
    "DINOv2": (Dinov2Embeddings, Dinov2Config, "bicubic", RESIZE_FLOAT32),
    "DINOv2 with registers": (
        Dinov2WithRegistersEmbeddings,
        Dinov2WithRegistersConfig,
        "bicubic_antialias",
        RESIZE_FLOAT32,
    ),
    "CLIP": (CLIPVisionEmbeddings, CLIPVisionConfig, "bicubic", RESIZE),
    "SigLIP": (SiglipVisionEmbeddings, SiglipVisionConfig, "bicubic", RESIZE),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
@pytest.mark.parametrize("new", [(9, 4), (6, 8), (13, 13), (3, 3)])
def test_hugging_face_positions(name, new):
    make, make_config, kernel, tolerance = HUGGING_FACE[name]
    embeddings = make(make_config(hidden_size=16, num_attention_heads=2, image_size=24, patch_size=4)).double()
    positions = dict(embeddings.named_parameters()).get("position_embeddings")
    positions = embeddings.position_embedding.weight if positions is None else positions
    torch.nn.init.normal_(positions)
    prefix = 0 if name == "SigLIP" else 1
    tokens = torch.zeros(1, new[0] * new[1] + prefix, 16, dtype=torch.float64)
    expected = embeddings.interpolate_pos_encoding(tokens, new[0] * 4, new[1] * 4).detach().numpy()[0, prefix:]
    grid = positions.detach().numpy().reshape(-1, 16)[prefix:].reshape(6, 6, 16)
    found = resize_grid(grid, new, kernel).reshape(-1, 16)
    assert compare({"positions": found}, {"positions": expected}).ok(tolerance.limit)


def test_hugging_face_siglip2_positions():
    grid, new = np.random.default_rng(0).standard_normal((6, 6, 16)), (4, 9)
    shapes = torch.tensor([new])
    resize = Siglip2VisionEmbeddings.resize_positional_embeddings
    expected = resize(torch.from_numpy(grid), shapes, 36).numpy()[0]
    found = resize_grid(grid, new, "bilinear_antialias").reshape(-1, 16)
    assert compare({"positions": found}, {"positions": expected}).ok(RESIZE_FLOAT32.limit)


def test_hugging_face_tables():
    old, new = (4, 4), (7, 3)
    bias = BeitRelativePositionBias(BeitConfig(image_size=16, patch_size=4, num_attention_heads=4)).double()
    torch.nn.init.normal_(bias.relative_position_bias_table)
    expected = bias(new).detach().numpy()[0]
    table = resize_rel_pos_table(bias.relative_position_bias_table.detach().numpy(), old, new, "bilinear")
    index = BeitRelativePositionBias.generate_relative_position_index(new).numpy()
    assert compare({"bias": table[index].transpose(2, 0, 1)}, {"bias": expected}).ok(RESIZE.limit)


@pytest.mark.parametrize("new", [4, 9, 16])
def test_torchvision_positions(new):
    grid = np.random.default_rng(0).standard_normal((7, 7, 16))
    positions = torch.from_numpy(np.concatenate([np.ones((1, 16)), grid.reshape(49, 16)])[None])
    state = interpolate_embeddings(new * 4, 4, {"encoder.pos_embedding": positions})
    found = resize_grid(grid, (new, new), "bicubic_align_corners").reshape(-1, 16)
    expected = state["encoder.pos_embedding"].numpy()[0, 1:]
    assert compare({"positions": found}, {"positions": expected}).ok(RESIZE.limit)
