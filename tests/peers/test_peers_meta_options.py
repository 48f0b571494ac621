"""DeiT III's hMLP stem and pairs of branches, and DINOv3 with everything that it can be built with, as their code runs.

Neither is installed. The forward passes here are written from the original code, from the tensors by their names there:
facebookresearch `deit/models_v2.py` (`hMLP_stem`, `Layer_scale_init_Block_paralx2`, `vit_models`) and
`dinov3/models/vision_transformer.py` with `layers/rope_position_encoding.py` and `layers/attention.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from format_peers import distances, pixels_of
from test_peers_mask import distance, mask_of, ours
from torch import Tensor
from torch.nn import functional as F

from parity import checkpoints, configs
from parity.checkpoints import open_checkpoint
from parity.checks.parameters import random_parameters
from parity.tolerances import PEERS
from vit_torch.state_dict import from_numpy

HEADS, DIM, HIDDEN, DEPTH = 3, 192, 80, 2


class Tensors(dict[str, Tensor]):
    """Random tensors by name, and the layers that have them."""

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], eps)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        return self.linear(F.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def conv(self, x: Tensor, name: str, stride: int) -> Tensor:
        return F.conv2d(x, self[f"{name}.weight"], self[f"{name}.bias"], stride)

    def attention(self, x: Tensor, name: str, rotate: Any = lambda heads: heads, mask: Tensor | None = None) -> Tensor:
        bias = self[f"{name}.qkv.bias"] if mask is None else self[f"{name}.qkv.bias"] * mask
        qkv = F.linear(x, self[f"{name}.qkv.weight"], bias).unflatten(-1, (3, HEADS, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        weights = (rotate(q) @ rotate(k).mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.proj")


def layer(name: str, outputs: int, *inputs: int) -> dict[str, tuple[int, ...]]:
    """Weight and bias; of a norm where nothing goes in."""
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def attention_of(name: str) -> dict[str, tuple[int, ...]]:
    return layer(f"{name}.qkv", 3 * DIM, DIM) | layer(f"{name}.proj", DIM, DIM)


def mlp_of(name: str) -> dict[str, tuple[int, ...]]:
    return layer(f"{name}.fc1", HIDDEN, DIM) | layer(f"{name}.fc2", DIM, HIDDEN)


def randomised(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    values = Tensors({name: from_numpy(value) for name, value in random_parameters(shapes).items()})
    for name in values:
        if "gamma" in name:
            values[name] = 0.7 + 0.1 * values[name]
    return values


def deit3_shapes(*, scaled: bool, stem: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, DIM), "pos_embed": (1, 9, DIM)}
    if stem:
        sizes = ((0, DIM // 4, 3, 4), (3, DIM // 4, DIM // 4, 2), (6, DIM, DIM // 4, 2))
        for number, outputs, inputs, kernel in sizes:
            shapes |= layer(f"patch_embed.proj.{number}", outputs, inputs, kernel, kernel)
            shapes |= layer(f"patch_embed.proj.{number + 1}", outputs)
            kinds = ("running_mean", "running_var")
            shapes |= {f"patch_embed.proj.{number + 1}.{kind}": (outputs,) for kind in kinds}
    else:
        shapes |= layer("patch_embed.proj", DIM, 3, 16, 16)
    for i in range(DEPTH):
        for one in ("", "1"):
            block = f"blocks.{i}."
            shapes |= layer(f"{block}norm1{one}", DIM) | attention_of(f"{block}attn{one}")
            shapes |= layer(f"{block}norm2{one}", DIM) | mlp_of(f"{block}mlp{one}")
            if scaled:
                shapes |= {f"{block}gamma_{branch}{'_1' if one else ''}": (DIM,) for branch in (1, 2)}
    return shapes | layer("norm", DIM) | layer("head", 10, DIM)


def deit3(t: Tensors, pixels: Tensor) -> Tensor:
    if "patch_embed.proj.0.weight" in t:
        x = pixels
        for number, stride in ((0, 4), (3, 2), (6, 2)):
            name = f"patch_embed.proj.{number + 1}"
            statistics = t[f"{name}.running_mean"], t[f"{name}.running_var"]
            x = t.conv(x, f"patch_embed.proj.{number}", stride)
            x = F.batch_norm(x, *statistics, t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-5)
            x = F.gelu(x) if number < 6 else x
    else:
        x = t.conv(pixels, "patch_embed.proj", 16)
    x = x.flatten(2).transpose(1, 2) + t["pos_embed"]
    x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], dim=1)
    for i in range(DEPTH):
        block = f"blocks.{i}."
        for branch, kind, apply in ((1, "attn", t.attention), (2, "mlp", t.mlp)):
            scales = (t.get(f"{block}gamma_{branch}{end}", torch.ones(1)) for end in ("", "_1"))
            first, second = (
                scale * apply(t.norm(x, f"{block}norm{branch}{one}", 1e-6), f"{block}{kind}{one}")
                for scale, one in zip(scales, ("", "1"), strict=True)
            )
            x = x + first + second
    return t.linear(t.norm(x, "norm", 1e-6)[:, 0], "head")


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_deit3(scaled, stem, tmp_path):
    tensors = randomised(deit3_shapes(scaled=scaled, stem=stem))
    counters = {f"patch_embed.proj.{i}.num_batches_tracked": torch.tensor(7) for i in (1, 4, 7)} if stem else {}
    torch.save({"model": tensors | counters, "epoch": 3}, tmp_path / "file.pth")
    found = open_checkpoint(tmp_path / "file.pth")
    assert found.source["format"] == "meta"
    assert (found.config.block, found.config.stem) == ("parallel_things", "hmlp" if stem else "patch")
    images, pixels = pixels_of(found)
    expected = deit3(tensors, pixels)
    assert max(distances(found, images, expected)) <= PEERS.limit
    checkpoints.convert(found, tmp_path / "written", to="meta")
    again = open_checkpoint(tmp_path / "written")
    assert again.config == found.config
    assert all(np.array_equal(again.tensors[name], value) for name, value in found.tensors.items())
    # The second branch of a pair counts as much as the first.
    wrong = Tensors(tensors | {"blocks.1.norm11.weight": tensors["blocks.1.norm1.weight"]})
    assert min(distances(found, images, deit3(wrong, pixels), flax=False)) > 1e3 * PEERS.limit


def dinov3_shapes(storage: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, DIM), "mask_token": (1, DIM)}
    shapes |= {"storage_tokens": (1, storage, DIM)} if storage else {}
    shapes |= layer("patch_embed.proj", DIM, 3, 8, 8)
    for i in range(DEPTH):
        block = f"blocks.{i}."
        shapes |= layer(f"{block}norm1", DIM) | attention_of(f"{block}attn") | {f"{block}ls1.gamma": (DIM,)}
        shapes |= layer(f"{block}norm2", DIM) | mlp_of(f"{block}mlp") | {f"{block}ls2.gamma": (DIM,)}
    return shapes | layer("norm", DIM) | layer("cls_norm", DIM) | layer("local_cls_norm", DIM)


def coordinates(height: int, width: int, normalize: str) -> Tensor:
    sides = {"separate": (height, width), "max": (max(height, width),) * 2, "min": (min(height, width),) * 2}[normalize]
    rows, columns = (
        torch.arange(0.5, n, dtype=torch.float64) / side for n, side in zip((height, width), sides, strict=True)
    )
    return 2 * torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1) - 1


def dinov3(t: Tensors, pixels: Tensor, mask: Tensor, normalize: str) -> Tensor:
    """Tokens, with the norm of its own for those in front."""
    x = t.conv(pixels, "patch_embed.proj", 8)
    height, width = x.shape[2:]
    x = torch.where(mask[:, :, None], t["mask_token"], x.flatten(2).transpose(1, 2))
    front = [t[name].expand(len(x), -1, -1) for name in ("cls_token", "storage_tokens") if name in t]
    prefix = sum(token.shape[1] for token in front)
    x = torch.cat([*front, x], dim=1)
    angles = 2 * torch.pi * coordinates(height, width, normalize)[:, :, None] / t["rope_embed.periods"]
    sin, cos = (function(angles.flatten(1).tile(2)) for function in (torch.sin, torch.cos))

    def rotate(heads: Tensor) -> Tensor:
        patches = heads[:, :, prefix:]
        first, second = patches.chunk(2, dim=-1)
        rotated = patches * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([heads[:, :, :prefix], rotated], dim=2)

    for i in range(DEPTH):
        block = f"blocks.{i}."
        keys_without_bias = t[f"{block}attn.qkv.bias_mask"]
        attended = t.attention(t.norm(x, f"{block}norm1", 1e-5), f"{block}attn", rotate, keys_without_bias)
        x = x + t[f"{block}ls1.gamma"] * attended
        x = x + t[f"{block}ls2.gamma"] * t.mlp(t.norm(x, f"{block}norm2", 1e-5), f"{block}mlp")
    return torch.cat([t.norm(x[:, :prefix], "cls_norm", 1e-5), t.norm(x[:, prefix:], "norm", 1e-5)], dim=1)


@pytest.mark.parametrize("normalize", ["separate", "max", "min"])
@pytest.mark.parametrize("storage", [0, 4])
def test_dinov3(storage, normalize, tmp_path):
    tensors = randomised(dinov3_shapes(storage))
    tensors["rope_embed.periods"] = 0.5 * 40 ** torch.linspace(0, 1, DIM // HEADS // 4, dtype=torch.float64)
    mask_of_bias = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(DIM)
    tensors |= {f"blocks.{i}.attn.qkv.bias_mask": mask_of_bias for i in range(DEPTH)}
    torch.save({"teacher": {f"backbone.{name}": value for name, value in tensors.items()}}, tmp_path / "file.pth")
    said: dict[str, Any] = {"image_size": (24, 40), "mask_token": True, "rope.normalize_coords": normalize}
    found = open_checkpoint(tmp_path / "file.pth", **said)
    assert found.config.cls_norm
    assert found.config.rope == configs.Rope(
        kind="centered", min_period=0.5, max_period=20.0, normalize_coords=normalize, rotate_half=True
    )
    _, pixels = pixels_of(found)
    mask, values = mask_of(found.config), {name: np.asarray(value) for name, value in found.tensors.items()}
    expected = dinov3(tensors, pixels, torch.from_numpy(mask), normalize)
    unmasked = dinov3(tensors, pixels, torch.from_numpy(np.zeros_like(mask)), normalize)
    other = dinov3(tensors, pixels, torch.from_numpy(mask), "min" if normalize == "max" else "max")
    for tokens in ours(found.config, values, pixels, mask):
        assert distance(tokens, expected) <= PEERS.limit
        assert min(distance(tokens, unmasked), distance(tokens, other)) > 1e3 * PEERS.limit
    checkpoints.convert(found, tmp_path / "written", to="meta")
    again = open_checkpoint(tmp_path / "written")
    assert (again.config, again.assumed) == (found.config, ())
    assert all(np.array_equal(again.tensors[name], value) for name, value in values.items())
