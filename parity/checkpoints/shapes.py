"""Canonical names and shapes of a model's parameters, from its config alone.

Converting needs them on a machine that may have neither framework; tests hold them against both models.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..configs import Config, VitConfig

Shape = tuple[int, ...]


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Shape of each parameter by canonical name, in the order in which timm has them."""
    return dict(_vit(config))


def parameter_count(config: Config) -> int:
    """Number of parameters."""
    total = 0
    for shape in parameter_shapes(config).values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def _vit(config: VitConfig) -> Iterator[tuple[str, Shape]]:
    dim = config.embed_dim
    if config.class_token:
        yield "cls_token", (1, 1, dim)
    if config.dist_token:
        yield "dist_token", (1, 1, dim)
    if config.reg_tokens:
        yield "reg_token", (1, config.reg_tokens, dim)
    if config.pos_embed == "learned":
        yield "pos_embed", (1, config.num_patches + config.pos_embed_prefix * config.num_prefix_tokens, dim)
    yield "patch_embed.proj.weight", (dim, config.in_chans, *config.patch_size)
    if config.patch_bias:
        yield "patch_embed.proj.bias", (dim,)
    if config.pre_norm:
        yield from _norm("norm_pre", dim)
    for i in range(config.depth):
        yield from _block(f"blocks.{i}", config)
    if config.final_norm:
        yield from _norm("norm", dim)
    if config.global_pool == "map":
        yield "attn_pool.latent", (1, 1, dim)
        yield from _linear("attn_pool.q", dim, dim)
        yield from _linear("attn_pool.kv", dim, 2 * dim)
        yield from _linear("attn_pool.proj", dim, dim)
        yield from _norm("attn_pool.norm", dim)
        yield from _linear("attn_pool.mlp.fc1", dim, config.mlp_dim)
        yield from _linear("attn_pool.mlp.fc2", config.mlp_dim, dim)
    if config.fc_norm:
        yield from _norm("fc_norm", dim)
    if config.num_classes:
        yield from _linear("head", dim, config.num_classes)
        if config.dist_token:
            yield from _linear("head_dist", dim, config.num_classes)


def _block(name: str, config: VitConfig) -> Iterator[tuple[str, Shape]]:
    dim = config.embed_dim
    yield from _norm(f"{name}.norm1", dim)
    yield from _linear(f"{name}.attn.qkv", dim, 3 * dim, bias=config.qkv_bias)
    yield from _linear(f"{name}.attn.proj", dim, dim)
    if config.layer_scale_init is not None:
        yield f"{name}.ls1.gamma", (dim,)
    yield from _norm(f"{name}.norm2", dim)
    yield from _linear(f"{name}.mlp.fc1", dim, config.mlp_dim * (2 if config.mlp == "swiglu_packed" else 1))
    yield from _linear(f"{name}.mlp.fc2", config.mlp_dim, dim)
    if config.layer_scale_init is not None:
        yield f"{name}.ls2.gamma", (dim,)


def _norm(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)
