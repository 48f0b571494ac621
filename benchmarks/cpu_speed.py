"""The table "On a CPU" of docs/benchmarks.md: ViT-B/16 in float32, forward, and forward and backward, beside others.

    PEERS/bin/python -m benchmarks.cpu_speed [--depth 12] [--batch 8] [--rounds 4]

Every case is run once in each round, so that a noisy machine is noisy for all; the least time of all rounds counts.
"Linen" and "NNX" are the same model of Flax's own layers, as big_vision and jimm build theirs. On a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import timm
import torch
from flax import nnx

import vit_jax
import vit_torch
from parity import configs
from parity.configs import Execution
from parity.html_report import markdown_table

DIM, HEADS, HIDDEN, CLASSES, PATCH = 768, 12, 3072, 1000, 16
# Runs it once, to the end.
Run = Callable[[], object]


class LinenBlock(nn.Module):
    """A pre-norm block of Linen's layers."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Applies the block."""
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=HEADS, deterministic=True)(y, y)
        y = nn.LayerNorm()(x)
        return x + nn.Dense(DIM)(nn.gelu(nn.Dense(HIDDEN)(y), approximate=False))


class Linen(nn.Module):
    """ViT-B of Linen's layers."""

    depth: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Logits of images (b, h, w, c)."""
        x = nn.Conv(DIM, (PATCH, PATCH), strides=PATCH, padding="VALID")(x)
        x = x.reshape(len(x), -1, DIM)
        token = self.param("cls", nn.initializers.zeros, (1, 1, DIM))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = x + self.param("pos_embed", nn.initializers.normal(0.02), (1, x.shape[1], DIM))
        for _ in range(self.depth):
            x = LinenBlock()(x)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x)[:, 0])


class NnxBlock(nnx.Module):
    """A pre-norm block of NNX's layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(DIM, rngs=rngs), nnx.LayerNorm(DIM, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(HEADS, DIM, decode=False, deterministic=True, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(DIM, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, DIM, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Applies the block."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))


class Nnx(nnx.Module):
    """ViT-B of NNX's layers."""

    def __init__(self, depth: int, rngs: nnx.Rngs):
        self.embed = nnx.Conv(3, DIM, (PATCH, PATCH), strides=PATCH, padding="VALID", rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, DIM)))
        self.pos_embed = nnx.Param(jnp.zeros((1, 197, DIM)))
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(depth)])
        self.norm, self.head = nnx.LayerNorm(DIM, rngs=rngs), nnx.Linear(DIM, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Logits of images (b, h, w, c)."""
        x = self.embed(x)
        x = x.reshape(len(x), -1, DIM)
        x = jnp.concatenate([jnp.tile(self.cls[...], (len(x), 1, 1)), x], axis=1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def of_jax(apply: Callable[[Any, Any], Any], params: Any, images: jax.Array) -> dict[str, Run]:
    """Both columns of a function of parameters and images."""
    forward = jax.jit(apply)
    backward = jax.jit(jax.grad(lambda params, images: (apply(params, images) ** 2).mean()))
    return {
        "forward": lambda: jax.block_until_ready(forward(params, images)),
        "forward and backward": lambda: jax.block_until_ready(backward(params, images)),
    }


def of_nnx(model: nnx.Module, images: jax.Array) -> dict[str, Run]:
    """The same of a module of NNX."""
    graph, params = nnx.split(model)
    return of_jax(lambda params, images: nnx.merge(graph, params)(images), params, images)


def of_torch(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Run]:
    """The same of a module of PyTorch, eagerly."""

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(images)

    def backward() -> None:
        model.zero_grad()
        (model(images) ** 2).mean().backward()

    return {"forward": forward, "forward and backward": backward}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    depth, rng = arguments.depth, np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, 224, 224, 3)).astype(np.float32)
    config, given = configs.get("vit_base_patch16_224", depth=depth), jnp.asarray(images)
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    linen = Linen(depth)
    cases = {
        "`vit_jax`": of_nnx(vit_jax.create_model(config, rngs=nnx.Rngs(0)), given),
        "`vit_jax`, scanned": of_nnx(
            vit_jax.create_model(config, rngs=nnx.Rngs(0), execution=Execution(scan=True)), given
        ),
        "Linen's layers (big_vision)": of_jax(linen.apply, linen.init(jax.random.key(0), given[:1]), given),
        "NNX's layers (jimm)": of_nnx(Nnx(depth, nnx.Rngs(0)), given),
        "`vit_torch`": of_torch(vit_torch.create_model(config), pixels),
        "timm": of_torch(timm.create_model("vit_base_patch16_224", depth=depth), pixels),
    }
    columns = ("forward", "forward and backward")
    least = {name: dict.fromkeys(columns, float("inf")) for name in cases}
    for warm in (False, *[True] * arguments.rounds):
        for name, runs in cases.items():
            for column in columns:
                start = time.perf_counter()
                runs[column]()
                if warm:
                    least[name][column] = min(least[name][column], time.perf_counter() - start)
    peers = [name for name in cases if "layers" in name]
    best = {column: min(least[name][column] for name in peers) for column in columns}
    rows = [
        (name, *(f"{times[column]:.2f} s ({times[column] / best[column]:.2f})" for column in columns))
        for name, times in least.items()
    ]
    print(f"ViT-B/16, {depth} blocks, batch {arguments.batch}; in brackets times the best JAX peer\n")
    print(markdown_table(("", *columns), rows))


if __name__ == "__main__":
    main()
