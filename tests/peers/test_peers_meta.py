"""Original files of DINOv2, DINOv3, MAE, DeiT and BEiT in both twins, against timm's conversion of the same files.

Meta's code isn't installed. timm's `checkpoint_filter_fn` converts the same tensors to timm's models, whose own forward
pass is the reference. Where timm has folded something (the position of DINOv2's class token), outputs are compared; of
the rest the tensors, too, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from format_peers import distances, pixels_of
from safetensors.torch import load_file
from timm.models import beit, eva, vision_transformer

from benchmarks.timm_peer import float64_rope
from parity import configs
from parity.checkpoints import Checkpoint, open_checkpoint, parameter_shapes
from parity.checkpoints.formats import meta
from parity.checkpoints.formats.meta_names import is_meta
from parity.checkpoints.formats.timm import our_name
from parity.checks.parameters import random_parameters
from parity.compare import not_identical
from parity.tolerances import PEERS
from vit_torch.state_dict import from_numpy

Tensors = dict[str, torch.Tensor]

D, HIDDEN, CLASSES = 192, 80, 10
SIZES = dict(embed_dim=D, depth=2, num_heads=3, patch_size=8, img_size=24)
RATIO = (HIDDEN + 0.5) / D


def block(i: int, mlp: dict[str, tuple[int, ...]], *, scale: str = "", bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Shapes of a block as the original code has them, which named them as DeiT did."""
    shapes: dict[str, tuple[int, ...]] = {"norm1.weight": (D,), "norm1.bias": (D,), "attn.qkv.weight": (3 * D, D)}
    shapes |= {"attn.qkv.bias": (3 * D,)} if bias else {}
    shapes |= {"attn.proj.weight": (D, D), "attn.proj.bias": (D,), "norm2.weight": (D,), "norm2.bias": (D,)}
    scales = {"ls": ("ls1.gamma", "ls2.gamma"), "gamma": ("gamma_1", "gamma_2"), "": ()}[scale]
    shapes |= {f"mlp.{name}": shape for name, shape in mlp.items()} | dict.fromkeys(scales, (D,))
    return {f"blocks.{i}.{name}": shape for name, shape in shapes.items()}


MLP = {"fc1.weight": (HIDDEN, D), "fc1.bias": (HIDDEN,), "fc2.weight": (D, HIDDEN), "fc2.bias": (D,)}
PACKED = {"w12.weight": (2 * HIDDEN, D), "w12.bias": (2 * HIDDEN,), "w3.weight": (D, HIDDEN), "w3.bias": (D,)}
GATED = {f"w{n}.weight": (HIDDEN, D) for n in (1, 2)} | {f"w{n}.bias": (HIDDEN,) for n in (1, 2)}
GATED |= {"w3.weight": (D, HIDDEN), "w3.bias": (D,)}
PATCHES = {"patch_embed.proj.weight": (D, 3, 8, 8), "patch_embed.proj.bias": (D,), "cls_token": (1, 1, D)}
NORM = {"norm.weight": (D,), "norm.bias": (D,)}
FC_NORM = {"fc_norm.weight": (D,), "fc_norm.bias": (D,)}
HEAD = {"head.weight": (CLASSES, D), "head.bias": (CLASSES,)}
MASK = {"mask_token": (1, D)}


def blocks(mlp: dict[str, tuple[int, ...]], **options: Any) -> dict[str, tuple[int, ...]]:
    return block(0, mlp, **options) | block(1, mlp, **options)


def positions(count: int) -> dict[str, tuple[int, ...]]:
    return {"pos_embed": (1, count, D)}


DECODER = {"decoder_embed.weight": (96, D), "decoder_pos_embed": (1, 10, 96), "decoder_pred.bias": (192,)}
REL_POS = {f"blocks.{i}.attn.relative_position_bias_table": (5 * 5 + 3, 3) for i in (0, 1)}
Q_AND_V = {f"blocks.{i}.attn.{x}_bias": (D,) for i in (0, 1) for x in "qv"}

# The tensors of each file, timm's model, and timm's conversion.
FILES: dict[str, tuple[dict[str, tuple[int, ...]], str, dict[str, Any], Callable[..., Any]]] = {
    "dinov2": (
        PATCHES | positions(10) | MASK | blocks(MLP, scale="ls") | NORM,
        "vit_small_patch14_dinov2",
        {},
        vision_transformer.checkpoint_filter_fn,
    ),
    "dinov2 with registers": (
        PATCHES | positions(10) | MASK | {"register_tokens": (1, 4, D)} | blocks(MLP, scale="ls") | NORM,
        "vit_small_patch14_reg4_dinov2",
        {},
        vision_transformer.checkpoint_filter_fn,
    ),
    "dinov2 gated": (
        PATCHES | positions(10) | MASK | blocks(PACKED, scale="ls") | NORM,
        "vit_giant_patch14_dinov2",
        dict(mlp_ratio=(2 * HIDDEN + 0.5) / D),
        vision_transformer.checkpoint_filter_fn,
    ),
    "dinov3": (
        PATCHES | MASK | {"storage_tokens": (1, 4, D)} | blocks(MLP, scale="ls") | NORM,
        "vit_base_patch16_dinov3_qkvb",
        dict(img_size=128, global_pool="token"),
        eva.checkpoint_filter_fn,
    ),
    "dinov3 gated": (
        PATCHES | MASK | {"storage_tokens": (1, 4, D)} | blocks(GATED, scale="ls", bias=False) | NORM,
        "vit_7b_patch16_dinov3",
        dict(img_size=128, global_pool="token", swiglu_align_to=8),
        eva.checkpoint_filter_fn,
    ),
    "mae": (
        PATCHES | positions(10) | blocks(MLP) | NORM | DECODER | {"mask_token": (1, 1, 96)},
        "vit_base_patch16_224",
        dict(num_classes=0),
        lambda tensors, model: {n: v for n, v in tensors.items() if not n.startswith(("decoder", "mask"))},
    ),
    "mae finetuned": (
        PATCHES | positions(10) | blocks(MLP) | FC_NORM | HEAD,
        "vit_base_patch16_224",
        dict(global_pool="avg", num_classes=CLASSES),
        vision_transformer.checkpoint_filter_fn,
    ),
    "deit": (
        PATCHES | positions(10) | blocks(MLP) | NORM | HEAD,
        "deit_tiny_patch16_224",
        dict(num_classes=CLASSES),
        vision_transformer.checkpoint_filter_fn,
    ),
    "deit distilled": (
        PATCHES
        | positions(11)
        | {"dist_token": (1, 1, D)}
        | blocks(MLP)
        | NORM
        | HEAD
        | {name.replace("head", "head_dist"): shape for name, shape in HEAD.items()},
        "deit_tiny_distilled_patch16_224",
        dict(num_classes=CLASSES),
        vision_transformer.checkpoint_filter_fn,
    ),
    "deit3": (
        PATCHES | positions(9) | blocks(MLP, scale="gamma") | NORM | HEAD,
        "deit3_small_patch16_224",
        dict(num_classes=CLASSES),
        lambda tensors, model: vision_transformer.checkpoint_filter_fn(tensors, model, adapt_layer_scale=True),
    ),
    "beit": (
        PATCHES | blocks(MLP, scale="gamma", bias=False) | REL_POS | Q_AND_V | FC_NORM | HEAD,
        "beit_base_patch16_224",
        dict(num_classes=CLASSES),
        beit.checkpoint_filter_fn,
    ),
}


def original(kind: str) -> Tensors:
    """Random values, also for what DINOv3's mask leaves out, and the buffers that the original files have."""
    values = {name: from_numpy(value) for name, value in random_parameters(FILES[kind][0]).items()}
    for name, value in values.items():
        if name.endswith(("gamma_1", "gamma_2", "bias_table")):
            values[name] = 0.7 + 0.1 * value
    if kind.startswith("dinov3"):
        values["rope_embed.periods"] = (100 ** (torch.arange(16) / 16)).bfloat16()
    if kind == "dinov3":
        mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(D)
        values |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in (0, 1)}
    return values


def converted(kind: str, tensors: Tensors) -> torch.nn.Module:
    """timm's model of timm's conversion."""
    _, name, options, convert = FILES[kind]
    model = timm.create_model(name, **(SIZES | {"mlp_ratio": RATIO} | options)).double().eval()
    model.load_state_dict(convert(dict(tensors), model), strict=True)
    return model


def save(kind: str, tensors: Tensors, path: Path) -> Path:
    """DeiT, MAE and BEiT keep the tensors under `model`."""
    torch.save(tensors if kind.startswith("dino") else {"model": tensors}, path)
    return path


def read(kind: str, tensors: Tensors, path: Path) -> Checkpoint:
    """The file; of those whose names are timm's, too, it is said whose they are."""
    marked = is_meta(tensors)
    found = open_checkpoint(save(kind, tensors, path), format=None if marked else "meta")
    assert marked == (kind.startswith("dinov") or kind == "mae")
    assert found.source["format"] == "meta"
    return found


@pytest.mark.parametrize("kind", FILES)
def test_an_original_file(kind, tmp_path):
    tensors = original(kind)
    found = read(kind, tensors, tmp_path / "file.pth")
    assert found.tensors.shapes() == parameter_shapes(found.config)
    images, pixels = pixels_of(found)
    with float64_rope(), torch.inference_mode():
        peer = converted(kind, tensors)
        expected = peer(pixels)
    assert max(distances(found, images, expected)) <= PEERS.limit
    theirs = {our_name(name): value.numpy() for name, value in peer.state_dict().items()}
    folded = {"cls_token", "pos_embed"} if kind == "dinov2 with registers" else set()
    ours = {name: np.asarray(value) for name, value in found.tensors.items()}
    if folded:
        token = ours["cls_token"] + ours["pos_embed"][:, :1]
        assert not_identical({"cls_token": token}, {"cls_token": theirs["cls_token"]}) == ()
    assert set(not_identical(ours, theirs)) <= folded


@pytest.mark.parametrize("kind", FILES)
def test_back_to_an_original_file(kind, tmp_path):
    """Every tensor as it was, but those of pretraining and what a mask leaves out; then timm's conversion again."""
    tensors = original(kind)
    found = read(kind, tensors, tmp_path / "file.pth")
    meta.write(tmp_path / "written", found.config, found.tensors)
    written = load_file(tmp_path / "written" / "model.safetensors")
    unread = [name for name in tensors if name.startswith(("decoder", "mask_token", "rope_embed"))]
    for name, value in tensors.items():
        if name in unread:
            continue
        if name.endswith("qkv.bias") and kind == "dinov3":
            value = value * tensors[f"{name}_mask"]
        assert torch.equal(written[name], value), name
    assert set(tensors) - set(written) <= set(unread)
    with float64_rope():
        peer, again = converted(kind, tensors), converted(kind, written)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in peer.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("dinov2 with registers", dict(pos_embed_prefix="none")),
        ("dinov3", dict(norm_eps=1e-6)),
        ("dinov3", dict(rope=configs.Rope(kind="centered", temperature=100.0))),
        ("deit", dict(act="gelu_tanh")),
        ("beit", dict(num_heads=3, act="quick_gelu")),
    ],
)
def test_the_comparison_can_fail(kind, change, tmp_path):
    tensors = original(kind)
    found = read(kind, tensors, tmp_path / "file.pth")
    images, pixels = pixels_of(found)
    with float64_rope(), torch.inference_mode():
        expected = converted(kind, tensors)(pixels)
    kept = dict(found.tensors)
    if "pos_embed_prefix" in change:  # as if the position of the class token had been dropped, not added
        kept["pos_embed"] = kept["pos_embed"][:, 1:]
    changed = type(found)(found.path, configs.replace(found.config, **change), "", {}, kept)
    assert min(distances(changed, images, expected, flax=False)) > 1e3 * PEERS.limit
