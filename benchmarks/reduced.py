"""Registered models made small enough to check all of them, at their real widths."""

from __future__ import annotations

from collections.abc import Iterable

from parity import configs
from parity.configs import Config, Preprocessing

# Patches down and across: registered models are square, which would hide exchanged rows and columns.
GRID = (5, 7)


def reduced(config: Config, depth: int) -> Config:
    """A config of the first blocks only, on a small grid that isn't square.

    Options that play no part in a forward pass from given parameters get one value, so that models that differ in
    nothing else become equal: preprocessing, the start value of LayerScale, the kernels that resize.
    """
    # A few pixels more where partial patches are dropped, so that there are some to drop.
    rest = 3 if config.drop_partial_patches else 0
    height, width = (side * patches + rest for side, patches in zip(config.patch_size, GRID, strict=True))
    # One block of each number of heads, where blocks differ in it.
    kinds = tuple(dict.fromkeys(config.num_kv_heads or ()))[:depth]
    return configs.replace(
        config,
        depth=len(kinds) or min(depth, config.depth),
        num_kv_heads=kinds or None,
        image_size=(height, width),
        layer_scale_init=None if config.layer_scale_init is None else 1.0,
        pos_embed_resize="bicubic_antialias",
        patch_resize="bicubic_antialias",
        rel_pos_resize="geometric",
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
    )


def distinct_options(names: Iterable[str], depth: int) -> dict[Config, list[str]]:
    """The reduced configs of some names at one small width, each with the names that share it."""
    groups: dict[Config, list[str]] = {}
    for name in names:
        groups.setdefault(reduced(narrow(configs.get(name)), depth), []).append(name)
    return groups


def narrow(config: Config) -> Config:
    """A config with the same options at one small width."""
    patch_size = (4, 8) if config.stem == "patch" else config.patch_size
    kv_heads = config.num_kv_heads and tuple(4 * heads // config.num_heads for heads in config.num_kv_heads)
    return configs.replace(
        config,
        patch_size=patch_size,
        image_size=tuple(side * patches for side, patches in zip(patch_size, GRID, strict=True)),
        embed_dim=48,
        num_heads=4,
        num_kv_heads=kv_heads,
        mlp_dim=80,
        attn_pool_mlp_dim=config.attn_pool_mlp_dim and 60,
        num_classes=10 if config.num_classes else 0,
    )


def distinct_sizes(names: Iterable[str]) -> dict[tuple[int, ...], str]:
    """One name for each width: patch size, `embed_dim`, `num_heads` and `mlp_dim`."""
    sizes: dict[tuple[int, ...], str] = {}
    for name in names:
        config = configs.get(name)
        sizes.setdefault((*config.patch_size, config.embed_dim, config.num_heads, config.mlp_dim), name)
    return sizes
