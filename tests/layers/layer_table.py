"""Every layer, and what it is built from and called with; `test_layers_alone.py` builds them in both twins."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# What a layer is built from: plain numbers, and other layers by their name in the same twin.
D, HEADS, HIDDEN, GRID = 24, 3, 40, (3, 4)
TOKENS = 1 + GRID[0] * GRID[1]
LN, RMS = ("partial", "norm.LayerNorm", dict(eps=1e-3)), "norm.RmsNorm"


@dataclasses.dataclass(frozen=True)
class Built:
    """A layer of a stem, as an argument of another one.

    Attributes:
        layer: Its name.
        args: What it is built from.
        options: More of it.
    """

    layer: str
    args: tuple[Any, ...]
    options: dict[str, Any]


STEM = (
    Built("stem.StemBlock", (3, 10), dict(kernel_size=3, stride=2, padding=1, bias=False, act="relu")),
    Built("stem.StemBlock", (10, D), dict(kernel_size=2, stride=2, norm=None)),
)
x = (2, TOKENS, D)
IMAGES = (2, 8, 12, 3)
MAP = (2, 5, 7, D)
MASK = np.tril(np.ones((TOKENS, TOKENS), bool))
BIAS = np.random.default_rng(7).normal(size=(HEADS, TOKENS, TOKENS))
PLACE = dict(dtype="float64")

# Layer, what it is built from, shapes of what it is called with, and options of the call.
TABLE: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...], dict[str, Any]]] = {
    "Linear": ("linear.Linear", (D, (2, 5)), {}, (x,), {}),
    "Conv": ("linear.Conv", (3, 5), dict(kernel_size=(2, 3), stride=(2, 1), padding=1), (IMAGES,), {}),
    "LayerNorm": ("norm.LayerNorm", (D,), {}, (x,), {}),
    "RmsNorm": ("norm.RmsNorm", (D,), dict(eps=1e-3), (x,), {}),
    "GroupNorm": ("norm.GroupNorm", (D,), dict(groups=3, eps=1e-3), (MAP,), {}),
    "GroupNorm, of tokens": ("norm.GroupNorm", (D,), {}, ((2, 3, 4, D),), {}),
    "LayerScale": ("norm.LayerScale", (D,), {}, (x,), {}),
    "BatchNorm": ("batch_norm.BatchNorm", (3,), {}, (IMAGES,), {}),
    "Dropout": ("drop.Dropout", (0.3,), {}, (x,), dict(key=3)),
    "DropPath": ("drop.DropPath", (), {}, (x,), dict(keep_rate=0.5, key=3)),
    "StemBlock": ("stem.StemBlock", (3, 5), dict(kernel_size=3, act="silu"), (IMAGES,), {}),
    "ConvNormAct": ("conv_norm.ConvNormAct", (3, 5), dict(kernel_size=3, stride=2, act="relu"), (IMAGES,), {}),
    "ConvNormAct, depthwise": ("conv_norm.ConvNormAct", (6, 6), dict(kernel_size=3, groups=6), ((2, 4, 7, 6),), {}),
    "PatchEmbed": ("patch_embed.PatchEmbed", (3, D, (2, 3)), dict(norm=LN), (IMAGES,), {}),
    "StemPatchEmbed": ("patch_embed.StemPatchEmbed", (3, D, 4), dict(stem=STEM), (IMAGES,), {}),
    "Mlp": ("mlp.Mlp", (D, HIDDEN), {}, (x,), {}),
    "Mlp with a norm": ("mlp.Mlp", (D, HIDDEN), dict(act="quick_gelu", bias=False, norm=LN), (x,), {}),
    "SwiGlu": ("mlp.SwiGlu", (D, HIDDEN), dict(act="silu", drop_rate=0.2), (x,), dict(key=4)),
    "SwiGluPacked": ("mlp.SwiGluPacked", (D, HIDDEN), {}, (x,), {}),
    "Attention": ("attention.Attention", (D, HEADS), {}, (x,), {}),
    "Attention, masked": ("attention.Attention", (D, HEADS), dict(k_bias=False), (x,), dict(mask=MASK, bias=BIAS)),
    "Attention, with norms": (
        "attention.Attention",
        (D, HEADS),
        dict(qk_norm=RMS, norm=LN, qkv_bias=False, proj_bias=False, attn_drop_rate=0.2, drop_rate=0.1),
        (x,),
        dict(key=5),
    ),
    "GroupedQueryAttention": ("grouped_query.GroupedQueryAttention", (D, 4), dict(num_kv_heads=2), (x,), {}),
    "DifferentialAttention": ("differential.DifferentialAttention", (D, 3), dict(index=2), (x,), dict(mask=MASK)),
    "RelativePositionAttention": (
        "rel_pos.RelativePositionAttention",
        (D, HEADS),
        dict(grid_size=GRID, k_bias=False),
        (x,),
        dict(bias=BIAS),
    ),
    "RelativePositionGroupedQueryAttention": (
        "rel_pos.RelativePositionGroupedQueryAttention",
        (D, 4),
        dict(grid_size=GRID, num_kv_heads=1),
        (x,),
        {},
    ),
    "RelativePositionBias": ("rel_pos.RelativePositionBias", (GRID, HEADS), {}, (), {}),
    "WindowAttention": ("window.WindowAttention", (D, HEADS), dict(window_size=(2, 3)), (MAP,), {}),
    "WindowAttention, shifted": (
        "window.WindowAttention",
        (D, HEADS),
        dict(window_size=(2, 3), shift=(1, 1), pad_first=True),
        (MAP,),
        {},
    ),
    "CosineWindowAttention": (
        "window.CosineWindowAttention",
        (D, HEADS),
        dict(window_size=(3, 2), shift=(1, 0), trained_window=5, hidden_dim=9, attn_drop_rate=0.2),
        (MAP,),
        dict(key=8),
    ),
    "Depthwise Conv": (
        "linear.Conv",
        (6, 6),
        dict(kernel_size=(3, 5), stride=(1, 1), padding=1, groups=6),
        ((2, 4, 7, 6),),
        {},
    ),
    "Conv in groups": ("linear.Conv", (6, 9), dict(kernel_size=(2, 2), stride=(2, 1), groups=3), ((2, 4, 7, 6),), {}),
    "ConvMlp": ("mlp.ConvMlp", (D, HIDDEN), dict(drop_rate=0.2), (MAP,), dict(key=4)),
    "ConvMlp, linear": ("mlp.ConvMlp", (D, HIDDEN), dict(relu=True, act="silu"), (MAP,), {}),
    "StdConv": ("std_conv.StdConv", (3, 5), dict(kernel_size=3, stride=2), ((2, 7, 8, 3),), {}),
    "StdConv, as in Google's code": ("std_conv.StdConv", (3, 5), dict(eps=1e-1, eps_outside=True), (IMAGES,), {}),
    "BitRoot": ("bit.BitRoot", (3, 32), {}, ((2, 15, 20, 3),), {}),
    "BitShortcut": ("bit.BitShortcut", (6, 32), dict(stride=2), ((2, 5, 8, 6),), {}),
    "BitBlock": ("bit.BitBlock", (128, 128), {}, ((2, 3, 4, 128),), {}),
    "BitStage": ("bit.BitStage", (32, 128, 2), dict(stride=2, eps_outside=True), ((2, 5, 6, 32),), {}),
    "BitBackbone": ("bit.BitBackbone", (3, (32, 128), (1,)), {}, ((2, 15, 20, 3),), {}),
    "HybridPatchEmbed": (
        "patch_embed.HybridPatchEmbed",
        (3, D, (8, 4)),
        dict(backbone=Built("bit.BitRoot", (3, 32), {}), map_dim=32, stride=4, norm=LN),
        (IMAGES,),
        {},
    ),
    "OverlapPatchEmbed": (
        "patch_embed.OverlapPatchEmbed",
        (3, D),
        dict(kernel_size=7, stride=4),
        ((2, 13, 10, 3),),
        {},
    ),
    "ReducedAttention": (
        "reduction.ReducedAttention",
        (D, HEADS),
        dict(ratio=2, norm=LN, attn_drop_rate=0.2),
        (MAP,),
        dict(key=8),
    ),
    "ReducedAttention, whole": ("reduction.ReducedAttention", (D, HEADS), {}, (MAP,), {}),
    "ReducedAttention, linear": (
        "reduction.ReducedAttention",
        (D, HEADS),
        dict(linear=True, qkv_bias=False),
        ((2, 9, 4, D),),
        {},
    ),
    "BasicBlock": ("residual.BasicBlock", (6, 9), dict(stride=2, downsample=True, eps=1e-3), ((2, 5, 8, 6),), {}),
    "Bottleneck": ("residual.Bottleneck", (12, 3), {}, ((2, 5, 8, 12),), {}),
    "Bottleneck, shrinking": ("residual.Bottleneck", (6, 4), dict(stride=2, downsample=True), ((2, 5, 8, 6),), {}),
    "InvertedResidual": ("inverted.InvertedResidual", (6, 6, 18), {}, ((2, 5, 8, 6),), dict(keep_rate=0.5, key=3)),
    "InvertedResidual, shrinking": (
        "inverted.InvertedResidual",
        (6, 9, 12),
        dict(kernel_size=5, stride=2, act="relu", eps=1e-3),
        ((2, 5, 8, 6),),
        {},
    ),
    "SeparableAttention": (
        "separable.SeparableAttention",
        (D,),
        dict(attn_drop_rate=0.2, drop_rate=0.3),
        ((2, 4, 6, D),),
        dict(key=8),
    ),
    "PointwiseMlp": ("separable.PointwiseMlp", (D, HIDDEN), dict(drop_rate=0.2), (MAP,), dict(key=4)),
    "MobileVitBlock": (
        "mobilevit.MobileVitBlock",
        (6, D, HEADS, HIDDEN),
        dict(patch_size=(2, 3), drop_rate=0.1, qkv_bias=False),
        ((2, 5, 8, 6),),
        dict(keep_rate=0.5, key=3),
    ),
    "MobileVitBlock, zeros": (
        "mobilevit.MobileVitBlock",
        (6, D, HEADS, HIDDEN),
        dict(depth=1, fit="zeros"),
        ((2, 5, 8, 6),),
        {},
    ),
    "SeparableMobileVitBlock": (
        "mobilevit.SeparableMobileVitBlock",
        (6, D, HIDDEN),
        dict(attn_drop_rate=0.1),
        ((2, 5, 7, 6),),
        dict(keep_rate=0.5, key=3),
    ),
    "SeparableMobileVitBlock, zeros": (
        "mobilevit.SeparableMobileVitBlock",
        (6, D, HIDDEN),
        dict(depth=1, patch_size=(3, 2), fit="zeros"),
        ((2, 5, 7, 6),),
        {},
    ),
    "PatchMerging": ("merge.PatchMerging", (D, 10), {}, (MAP,), {}),
    "PatchMerging, norm last": ("merge.PatchMerging", (D, 10), dict(norm=LN, norm_last=True), (MAP,), {}),
    "CrossAttention": (
        "cross_attention.CrossAttention",
        (D, HEADS),
        dict(context_dim=10, qk_norm=LN),
        (x, (2, 5, 10)),
        dict(mask=np.arange(5) != 3),
    ),
    "AttentionPool": ("pool.AttentionPool", (D, HEADS, HIDDEN), {}, (x,), dict(mask=np.arange(TOKENS) != 3)),
    "PreLogits": ("pool.PreLogits", (D, 7), {}, ((2, D),), {}),
    "RotaryEmbedding": ("rope.RotaryEmbedding", (8,), dict(rescale=2.0), (GRID,), dict(key=6, **PLACE)),
    "CenteredRotaryEmbedding": ("rope.CenteredRotaryEmbedding", (8,), dict(indexing="xy"), (GRID,), PLACE),
    "MixedRotaryEmbedding": ("rope.MixedRotaryEmbedding", (8,), dict(num_heads=2, depth=3), (GRID,), PLACE),
    "Block": ("block.Block", (D, HEADS, HIDDEN), {}, (x,), {}),
    "Block, with options": (
        "block.Block",
        (D, 4, HIDDEN),
        dict(norm=RMS, attn="grouped_query.GroupedQueryAttention", mlp="mlp.SwiGlu", layer_scale_init=0.1),
        (x,),
        dict(keep_rate=0.5, key=7),
    ),
    "ResPostBlock": ("block.ResPostBlock", (D, HEADS, HIDDEN), {}, (x,), dict(mask=MASK)),
    "AttentionBranch": ("parallel.AttentionBranch", (D, HEADS), dict(layer_scale_init=0.1), (x,), {}),
    "MlpBranch": ("parallel.MlpBranch", (D, HIDDEN), dict(layer_scale_init=0.1), (x,), {}),
    "ParallelThingsBlock": ("parallel.ParallelThingsBlock", (D, HEADS, HIDDEN), {}, (x,), dict(bias=BIAS)),
    "ParallelScalingBlock": ("parallel.ParallelScalingBlock", (D, HEADS, HIDDEN), {}, (x,), dict(mask=MASK)),
    "DifferentialParallelScalingBlock": (
        "parallel.DifferentialParallelScalingBlock",
        (D, HEADS, HIDDEN),
        dict(index=1, qkv_bias=False),
        (x,),
        dict(bias=BIAS),
    ),
}
