"""Every file as its owner means it: random models of three peers in people's containers and wrappers.

Every second of 320 of them; with `VIT_PARITY_EVERY=1` all. 48 more, of open_clip, are in
`test_peers_open_clip_random.py`.
"""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest
from people import ends_well
from people_models import MAKERS

from parity.checkpoints.assumed import Given
from parity.checkpoints.formats import canonical, torchvision

STEP = 1 if "VIT_PARITY_EVERY" in os.environ else 2
SEEDS = [(kind, seed) for kind, (_, number) in MAKERS.items() for seed in range(0, number, STEP)]


def end_of(kind: str, seed: int, directory: Path, *, flax: bool = True) -> str:
    rng = random.Random(f"{kind} {seed}")
    return ends_well(MAKERS[kind][0](rng), directory, rng, flax=flax)


@pytest.mark.parametrize(("kind", "seed"), SEEDS)
def test_it_ends_well(kind, seed, tmp_path):
    end_of(kind, seed, tmp_path)


@pytest.mark.parametrize("kind", ["timm", "finetuned", "torchvision", "huggingface"])
def test_the_cases_end_in_both_ways(kind, tmp_path):
    """Some are right at once, and of some what is assumed is wrong: else nothing would be tried."""
    ends = set()
    for seed in range(MAKERS[kind][1]):
        (tmp_path / str(seed)).mkdir()
        ends.add(end_of(kind, seed, tmp_path / str(seed), flax=False))
        if ends == {"same", "assumed"}:
            return
    raise AssertionError(f"got {ends}")


GUESSES: dict[str, tuple[str, dict[str, object]]] = {
    "the GELU": ("timm", dict(act="gelu")),
    "pooling": ("timm", dict(global_pool="token")),
    "the epsilon": ("timm", dict(norm_eps=1e-6)),
    "heads": ("torchvision", {}),
    "positions": ("timm", {}),
}


@pytest.mark.parametrize("planted", ["nothing is listed", *GUESSES])
def test_a_planted_guess_fails(planted, tmp_path, monkeypatch):
    kind, guesses = GUESSES.get(planted, ("timm", {}))
    if planted == "nothing is listed":
        monkeypatch.setattr(Given, "assume", lambda self, field, value, why: self.take(field, value))
    elif planted == "heads":
        monkeypatch.setattr(torchvision, "heads_of", lambda given, dim, *, path, shown=None: max(dim // 64, 1))
    elif planted == "positions":
        original = canonical.grid_of

        def squares_alone(given, count, patch_size, prefixes, **how):
            square = [name for name, number in prefixes.items() if math.isqrt(count - number) ** 2 == count - number]
            return original(given, count, patch_size, {name: prefixes[name] for name in square or prefixes}, **how)

        monkeypatch.setattr(canonical, "grid_of", squares_alone)
    else:
        settle = Given.settle

        def guessed(self, field, **how):
            return guesses[field] if field in guesses and field not in self.fields else settle(self, field, **how)

        monkeypatch.setattr(Given, "settle", guessed)
        pool_of = canonical.pool_of

        def token(*given, **how):
            is_open = "global_pool" in guesses and how["class_token"] and not how["attn_pool"]
            return "token" if is_open else pool_of(*given, **how)

        monkeypatch.setattr(canonical, "pool_of", token)

    def all_end_well() -> None:
        for seed in range(MAKERS[kind][1]):
            (tmp_path / str(seed)).mkdir()
            end_of(kind, seed, tmp_path / str(seed), flax=False)

    with pytest.raises(AssertionError, match=r"silently different|no advice"):
        all_end_well()
