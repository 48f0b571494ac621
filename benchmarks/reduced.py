"""Registered models made small enough to check all of them: groups of those that are then the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from parity import configs
from parity.configs import Config, VitConfig


def distinct_options(names: Iterable[str], depth: int) -> dict[Config, list[str]]:
    """The reduced configs of some names at one small width, each with the names that share it."""
    groups: dict[Config, list[str]] = {}
    for name in names:
        groups.setdefault(configs.get(name).narrowed().reduced(depth), []).append(name)
    return groups


def distinct_sizes(names: Iterable[str]) -> dict[tuple[int, ...], str]:
    """One name of a flat ViT for each width: patch size, `embed_dim`, `num_heads` and `mlp_dim`."""
    sizes: dict[tuple[int, ...], str] = {}
    for name in names:
        config = configs.get(name)
        if isinstance(config, VitConfig):
            sizes.setdefault((*config.patch_size, config.embed_dim, config.num_heads, config.mlp_dim), name)
    return sizes


def representatives(all_configs: Collection[Config]) -> list[Config]:
    """A few of some configs that have, among them, every value of every field that any of them has."""

    def values(config: Config) -> set[tuple[str, str, str]]:
        # By their text, for a field's type may have no hash.
        return {(type(config).__name__, f.name, repr(getattr(config, f.name))) for f in dataclasses.fields(config)}

    missing = set().union(*map(values, all_configs))
    found = []
    while missing:
        found.append(max(all_configs, key=lambda config: len(values(config) & missing)))
        missing -= values(found[-1])
    return found
