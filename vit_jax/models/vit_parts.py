"""Which layers a config of the flat Vision Transformer asks for. Twin: `vit_torch/models/vit_parts.py`.

Layers know no config: what one of them is given is read here, and nowhere else.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from flax import nnx

from parity.configs import VitConfig
from parity.configs.stem import bit_dims, bit_stride, stem_layers

from ..layers.attention import Attention
from ..layers.batch_norm import BatchNorm
from ..layers.bit import BitBackbone, BitRoot
from ..layers.block import Block, Part, ResPostBlock
from ..layers.differential import DifferentialAttention
from ..layers.grouped_query import GroupedQueryAttention
from ..layers.mlp import Mlp, SwiGlu, SwiGluPacked
from ..layers.norm import LayerNorm, Norm, RmsNorm
from ..layers.parallel import DifferentialParallelScalingBlock, ParallelScalingBlock, ParallelThingsBlock
from ..layers.patch_embed import HybridPatchEmbed, PatchEmbed, StemPatchEmbed
from ..layers.pool import AttentionPool
from ..layers.rel_pos import RelativePositionAttention, RelativePositionGroupedQueryAttention
from ..layers.rope import CenteredRotaryEmbedding, MixedRotaryEmbedding, RotaryEmbedding
from ..layers.stem import StemBlock

NORMS = {"layernorm": LayerNorm, "rmsnorm": RmsNorm}
MLPS = {"mlp": Mlp, "swiglu": SwiGlu, "swiglu_packed": SwiGluPacked}
BLOCKS = {"pre_norm": Block, "res_post": ResPostBlock, "parallel_things": ParallelThingsBlock}


def norm_of(config: VitConfig) -> Norm:
    """The kind of every norm."""
    return partial(NORMS[config.norm], eps=config.norm_eps)


def attention_of(config: VitConfig, index: int) -> Part:
    """The kind of attention of a block."""
    norm = norm_of(config)
    options: dict[str, Any] = dict(
        qkv_bias=config.qkv_bias,
        k_bias=config.k_bias,
        proj_bias=config.proj_bias,
        qk_norm=norm if config.qk_norm else None,
        norm=norm if config.attn_norm else None,
        rotate_half=config.rope is not None and config.rope.rotate_half,
        attn_drop_rate=config.attn_drop_rate,
        drop_rate=config.drop_rate,
    )
    if config.differential_attention:
        return partial(DifferentialAttention, index=index, **options)
    own_table = config.rel_pos_bias == "block"
    if own_table:
        options["grid_size"] = config.grid_size
    if config.qkv_fused:
        return partial(RelativePositionAttention if own_table else Attention, **options)
    options["num_kv_heads"] = config.kv_heads[index]
    return partial(RelativePositionGroupedQueryAttention if own_table else GroupedQueryAttention, **options)


def mlp_of(config: VitConfig) -> Part:
    """The kind of MLP of the blocks."""
    norm = norm_of(config) if config.mlp_norm else None
    return partial(MLPS[config.mlp], act=config.act, bias=config.mlp_bias, norm=norm, drop_rate=config.drop_rate)


def make_block(config: VitConfig, index: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """A block."""
    norm = norm_of(config)
    sizes = (config.embed_dim, config.num_heads, config.mlp_dim)
    options: dict[str, Any] = dict(norm=norm, layer_scale_init=config.layer_scale_init)
    if config.block == "parallel_scaling":
        options |= dict(
            qkv_bias=config.qkv_bias,
            proj_bias=config.proj_bias,
            qk_norm=norm if config.qk_norm else None,
            act=config.act,
            attn_drop_rate=config.attn_drop_rate,
            drop_rate=config.drop_rate,
        )
        if config.differential_attention:
            return DifferentialParallelScalingBlock(*sizes, index=index, **options, rngs=rngs)
        return ParallelScalingBlock(*sizes, **options, rngs=rngs)
    if config.attn_only_layer_scale:
        options["attn_only_layer_scale"] = True
    options |= dict(attn=attention_of(config, index), mlp=mlp_of(config))
    return BLOCKS[config.block](*sizes, **options, rngs=rngs)


def make_patch_embed(config: VitConfig, *, rngs: nnx.Rngs) -> PatchEmbed | StemPatchEmbed | HybridPatchEmbed:
    """What embeds the patches."""
    options: dict[str, Any] = dict(
        image_size=None if config.dynamic_image_size else config.image_size,
        drop_partial_patches=config.drop_partial_patches,
        norm=norm_of(config) if config.embed_norm else None,
    )
    sizes = (config.in_chans, config.embed_dim, config.patch_size)
    if config.stem == "patch":
        return PatchEmbed(*sizes, bias=config.patch_bias, **options, rngs=rngs)
    if config.stem == "bit":
        del options["drop_partial_patches"]
        dims, stride = bit_dims(config), bit_stride(config)
        given: dict[str, Any] = dict(
            backbone=make_bit(config, rngs=rngs), map_dim=dims[-1], stride=stride, bias=config.patch_bias
        )
        return HybridPatchEmbed(*sizes, **given, **options, rngs=rngs)
    batch_norm = partial(BatchNorm, eps=config.stem_norm_eps)
    stem = []
    for layer in stem_layers(config):
        given: dict[str, Any] = asdict(layer) | dict(norm=batch_norm if layer.norm else None)
        stem.append(StemBlock(**given, rngs=rngs))
    return StemPatchEmbed(*sizes, stem=stem, **options, rngs=rngs)


def make_bit(config: VitConfig, *, rngs: nnx.Rngs) -> BitBackbone | BitRoot:
    """BiT's ResNet, or its root alone."""
    outside = config.stem_conv_std == "deviation"
    options: dict[str, Any] = dict(eps=config.stem_norm_eps, conv_eps=config.stem_conv_eps, eps_outside=outside)
    dims = bit_dims(config)
    if not config.stem_depths:
        return BitRoot(config.in_chans, *dims, **options, rngs=rngs)
    return BitBackbone(config.in_chans, dims, config.stem_depths, **options, rngs=rngs)


def make_rope(config: VitConfig, *, rngs: nnx.Rngs) -> RotaryEmbedding | None:
    """The rotary positions, where there are any."""
    rope = config.rope
    if rope is None:
        return None
    options: dict[str, Any] = dict(
        temperature=rope.temperature, offset=rope.offset, indexing=rope.indexing, rescale=rope.rescale
    )
    if rope.kind == "centered":
        options |= dict(min_period=rope.min_period, max_period=rope.max_period, normalize_coords=rope.normalize_coords)
        return CenteredRotaryEmbedding(config.head_dim, **options)
    options["reference_grid"] = rope.reference_grid
    if rope.kind == "axial":
        return RotaryEmbedding(config.head_dim, **options)
    return MixedRotaryEmbedding(config.head_dim, num_heads=config.num_heads, depth=config.depth, **options, rngs=rngs)


def make_pool(config: VitConfig, *, rngs: nnx.Rngs) -> AttentionPool | None:
    """Attention pooling, where there is one."""
    if config.global_pool != "map":
        return None
    heads, hidden = config.attn_pool_heads or config.num_heads, config.attn_pool_mlp_dim or config.mlp_dim
    return AttentionPool(config.embed_dim, heads, hidden, norm=norm_of(config), act=config.act, rngs=rngs)


def draws(config: VitConfig) -> bool:
    """Whether a model draws random numbers in training mode."""
    rates = (config.drop_rate, config.attn_drop_rate, *config.drop_path_rates)
    return any(rates) or (config.rope is not None and config.rope.rescale is not None)
