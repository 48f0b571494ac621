"""Canonical names and shapes of the flat Vision Transformer's parameters, in the order in which timm has them.

And what becomes of those that have entries for the grid of patches, or pixels of one, at another size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...configs import VitConfig
from ...configs.stem import BIT_EXPANSION, StemLayer, bit_dims, kernel_sides, stem_layers
from ..resize import resize_grid, resize_patch_kernel, resize_rel_pos_table

Shape = tuple[int, ...]


def shapes(config: VitConfig) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each parameter, and of the statistics of BatchNorm."""
    dim = config.embed_dim
    if config.class_token:
        yield "cls_token", (1, 1, dim)
    if config.dist_token:
        yield "dist_token", (1, 1, dim)
    if config.reg_tokens:
        yield "reg_token", (1, config.reg_tokens, dim)
    if config.mask_token:
        yield "mask_token", (1, 1, dim)
    if config.pos_embed == "learned":
        yield "pos_embed", (1, config.num_patches + config.num_pos_embed_prefix, dim)
    if config.stem == "bit":
        yield from _bit("patch_embed.backbone", config)
    if config.stem in ("patch", "bit"):
        inputs = bit_dims(config)[-1] if config.stem == "bit" else config.in_chans
        yield "patch_embed.proj.weight", (dim, inputs, *kernel_sides(config))
        if config.patch_bias:
            yield "patch_embed.proj.bias", (dim,)
    for i, layer in enumerate(stem_layers(config)):
        yield from _stem_layer(f"patch_embed.stem.{i}", layer)
    if config.embed_norm:
        yield from _norm("patch_embed.norm", dim, config)
    if config.rel_pos_bias == "shared":
        yield "rel_pos_bias.relative_position_bias_table", _relative_positions(config)
    if config.rope is not None and config.rope.kind == "mixed":
        yield "rope.freqs", (2, config.depth, config.num_heads, config.head_dim // 2)
    if config.pre_norm:
        yield from _norm("norm_pre", dim, config)
    for i in range(config.depth):
        yield from _BLOCKS[config.block](f"blocks.{i}", i, config)
    if config.final_norm:
        yield from _norm("norm", dim, config)
    if config.cls_norm:
        yield from _norm("cls_norm", dim, config)
    if config.global_pool == "map":
        hidden = config.attn_pool_mlp_dim or config.mlp_dim
        yield "attn_pool.latent", (1, 1, dim)
        yield from _linear("attn_pool.q", dim, dim)
        yield from _linear("attn_pool.kv", dim, 2 * dim)
        yield from _linear("attn_pool.proj", dim, dim)
        yield from _norm("attn_pool.norm", dim, config)
        yield from _linear("attn_pool.mlp.fc1", dim, hidden)
        yield from _linear("attn_pool.mlp.fc2", hidden, dim)
    if config.fc_norm:
        yield from _norm("fc_norm", dim, config)
    if config.pre_logits_dim:
        yield from _linear("pre_logits.fc", config.pooled_dim, config.pre_logits_dim)
    if config.num_classes:
        for head in ("head", "head_dist")[: 1 + config.dist_token]:
            yield from _linear(
                head, config.pre_logits_dim or config.pooled_dim, config.num_classes, bias=config.head_bias
            )


def resized(tensors: Mapping[str, np.ndarray], old: VitConfig, new: VitConfig) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors whose shape follows from the image or the patch size, where it has changed; in float64."""
    for name in tensors:
        if name == "patch_embed.proj.weight" and new.patch_size != old.patch_size:
            yield name, resize_patch_kernel(tensors[name], kernel_sides(new), old.patch_resize)
        if new.grid_size == old.grid_size:
            continue
        if name == "pos_embed":
            yield name, _resized_positions(tensors[name], old, new)
        elif name.endswith("relative_position_bias_table"):
            yield name, resize_rel_pos_table(tensors[name], old.grid_size, new.grid_size, old.rel_pos_resize)


def _resized_positions(positions: np.ndarray, old: VitConfig, new: VitConfig) -> np.ndarray:
    """Position embeddings (1, prefix + n, d) of another grid; those of the prefix tokens stay."""
    prefix = old.num_pos_embed_prefix
    grid = positions[0, prefix:].reshape(*old.grid_size, -1)
    resized = resize_grid(grid, new.grid_size, old.pos_embed_resize)
    return np.concatenate([positions[:, :prefix].astype(np.float64), resized.reshape(1, -1, resized.shape[-1])], axis=1)


def _stem_layer(name: str, layer: StemLayer) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.conv.weight", (layer.out_chans, layer.in_chans, layer.kernel_size, layer.kernel_size)
    if layer.bias:
        yield f"{name}.conv.bias", (layer.out_chans,)
    if layer.norm:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.norm.{kind}", (layer.out_chans,)


def _bit(name: str, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    """BiT's root and stages; the root alone has no name of its own."""
    width, *dims = bit_dims(config)
    yield from _conv_norm(f"{name}.stem" if dims else name, "", config.in_chans, width, 7)
    for stage, dim in enumerate(dims):
        inner = dim // BIT_EXPANSION
        for block in range(config.stem_depths[stage]):
            own = f"{name}.stages.{stage}.blocks.{block}"
            if not block:
                yield from _conv_norm(f"{own}.downsample", "", width, dim, 1)
            yield from _conv_norm(own, "1", width, inner, 1)
            yield from _conv_norm(own, "2", inner, inner, 3)
            yield from _conv_norm(own, "3", inner, dim, 1)
            width = dim


def _conv_norm(name: str, number: str, inputs: int, outputs: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.conv{number}.weight", (outputs, inputs, side, side)
    for kind in ("weight", "bias"):
        yield f"{name}.norm{number}.{kind}", (outputs,)


def _block(name: str, index: int, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    """The tensors of pre_norm and res_post, which differ in the order of operations alone."""
    scaled = config.layer_scale_init is not None
    yield from _norm(f"{name}.norm1", config.embed_dim, config)
    yield from _attention(f"{name}.attn", index, config)
    if scaled:
        yield f"{name}.ls1.gamma", (config.embed_dim,)
    yield from _norm(f"{name}.norm2", config.embed_dim, config)
    yield from _mlp(f"{name}.mlp", config)
    if scaled and not config.attn_only_layer_scale:
        yield f"{name}.ls2.gamma", (config.embed_dim,)


def _parallel_things(name: str, index: int, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    for branches in ("attns", "ffns"):
        for number in range(2):
            branch = f"{name}.{branches}.{number}"
            yield from _norm(f"{branch}.norm", config.embed_dim, config)
            if branches == "attns":
                yield from _attention(f"{branch}.attn", index, config)
            else:
                yield from _mlp(f"{branch}.mlp", config)
            if config.layer_scale_init is not None:
                yield f"{branch}.ls.gamma", (config.embed_dim,)


def _parallel_scaling(name: str, index: int, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    dim, hidden, bias = config.embed_dim, config.mlp_dim, config.proj_bias
    yield from _norm(f"{name}.in_norm", dim, config)
    yield from _linear(f"{name}.in_proj", dim, hidden + 3 * dim, bias=config.qkv_bias)
    if not config.qkv_bias:
        yield f"{name}.mlp_bias", (hidden,)
    yield from _inside_attention(name, config)
    if config.differential_attention:
        yield from _linear(f"{name}.out_proj", dim + hidden, dim, bias=bias)
    else:
        yield from _linear(f"{name}.attn_out_proj", dim, dim, bias=bias)
        yield from _linear(f"{name}.mlp_out_proj", hidden, dim, bias=bias)
    if config.layer_scale_init is not None:
        yield f"{name}.ls.gamma", (dim,)


_BLOCKS = {
    "pre_norm": _block,
    "res_post": _block,
    "parallel_things": _parallel_things,
    "parallel_scaling": _parallel_scaling,
}


def _attention(name: str, index: int, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    dim, kv_dim = config.embed_dim, config.kv_heads[index] * config.head_dim
    if config.rel_pos_bias == "block":
        yield f"{name}.relative_position_bias_table", _relative_positions(config)
    if config.qkv_fused:
        yield from _linear(f"{name}.qkv", dim, 3 * dim, bias=config.qkv_bias and config.k_bias)
        if config.qkv_bias and not config.k_bias:
            yield f"{name}.q_bias", (dim,)
            yield f"{name}.v_bias", (dim,)
    else:
        yield from _linear(f"{name}.q_proj", dim, dim, bias=config.qkv_bias)
        yield from _linear(f"{name}.k_proj", dim, kv_dim, bias=config.qkv_bias and config.k_bias)
        yield from _linear(f"{name}.v_proj", dim, kv_dim, bias=config.qkv_bias)
    yield from _inside_attention(name, config)
    if config.attn_norm:
        yield from _norm(f"{name}.norm", dim, config)
    yield from _linear(f"{name}.proj", dim, dim, bias=config.proj_bias)


def _inside_attention(name: str, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    differential = config.differential_attention
    head_dim = config.head_dim // 2 if differential else config.head_dim
    if config.qk_norm:
        yield from _norm(f"{name}.q_norm", head_dim, config)
        yield from _norm(f"{name}.k_norm", head_dim, config)
    if differential:
        for vector in ("q1", "k1", "q2", "k2"):
            yield f"{name}.lambda_{vector}", (head_dim,)
        yield f"{name}.sub_norm.weight", (2 * head_dim,)


def _mlp(name: str, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    dim, hidden, bias = config.embed_dim, config.mlp_dim, config.mlp_bias
    if config.mlp == "swiglu":
        yield from _linear(f"{name}.fc1_g", dim, hidden, bias=bias)
        yield from _linear(f"{name}.fc1_x", dim, hidden, bias=bias)
    else:
        yield from _linear(f"{name}.fc1", dim, hidden * (2 if config.mlp == "swiglu_packed" else 1), bias=bias)
    if config.mlp_norm:
        yield from _norm(f"{name}.norm", hidden, config)
    yield from _linear(f"{name}.fc2", hidden, dim, bias=bias)


def _norm(name: str, dim: int, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    if config.norm == "layernorm":
        yield f"{name}.bias", (dim,)


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _relative_positions(config: VitConfig) -> Shape:
    height, width = config.grid_size
    return ((2 * height - 1) * (2 * width - 1) + 3, config.num_heads)
