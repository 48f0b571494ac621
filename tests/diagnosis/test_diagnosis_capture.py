"""What is captured: every submodule, once, under the same names on both sides, and the models stay as they were."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import checkpoints, configs
from parity.checks import random_images, random_parameters
from parity.checks.capture import capture_flax, capture_torch
from parity.compare import compare
from parity.configs import Execution
from parity.diagnosis.sides import Side
from parity.tolerances import FORWARD

IMAGES = np.random.default_rng(0).standard_normal((2, 8, 12, 3))


def side(name: str) -> Side:
    config = configs.get(name)
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    return Side(name=name, framework="flax", config=config, tensors=tensors)


def test_twins_have_the_same_places():
    twins = side("vit_test_map")
    images = random_images(twins.config, 2)
    # Scanned and recomputed blocks are captured one by one, too.
    model = twins.twin("flax")
    model.execution = Execution(scan=True, remat="block")
    left, right = capture_flax(model, images), capture_torch(twins.twin("torch"), images)
    assert list(left) == list(right)
    assert compare(left, right).ok(FORWARD["float64"].limit)
    assert model.execution == Execution(scan=True, remat="block")
    depth = twins.config.depth
    for i in range(depth):
        expected = {f"blocks.{i}", f"blocks.{i}.norm1", f"blocks.{i}.attn.qkv", f"blocks.{i}.attn.proj:input"}
        expected |= {f"blocks.{i}.norm2:input", f"blocks.{i}.mlp.fc1", f"blocks.{i}.mlp.fc2:input"}
        assert expected <= set(left)
    assert next(iter(left)) == "patch_embed.proj"
    assert list(left)[-1] == "output"
    assert left["patch_embed.proj"].shape == (2, *twins.config.grid_size, twins.config.embed_dim)


def test_the_captured_values_are_those_of_the_model():
    twins = side("vit_test")
    images = random_images(twins.config, 2)
    model = twins.twin("torch")
    captured = capture_torch(model, images)
    with torch.no_grad():
        inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        blocks = model.forward_intermediates(inputs)
        logits = model(inputs)
    np.testing.assert_array_equal(captured["output"], logits.numpy())
    for i, block in enumerate(blocks):
        np.testing.assert_array_equal(captured[f"blocks.{i}"], block.numpy())


def test_models_stay_as_they_were():
    twins = side("vit_test")
    images = random_images(twins.config, 1)
    flax, twin = twins.twin("flax"), twins.twin("torch")
    classes = {type(module) for _, module in nnx.iter_modules(flax)}
    before = {cls: vars(cls).get("__call__") for cls in classes}
    graphdef = nnx.graphdef(flax)
    capture_flax(flax, images, dtype="float32")
    capture_torch(twin, images, dtype="float32")
    assert {cls: vars(cls).get("__call__") for cls in classes} == before
    assert nnx.graphdef(flax) == graphdef
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
    assert {parameter.dtype for parameter in twin.parameters()} == {torch.float64}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision(dtype):
    twins = side("vit_test")
    images = random_images(twins.config, 1)
    for captured in (
        capture_flax(twins.twin("flax"), images, dtype=dtype),
        capture_torch(twins.twin("torch"), images, dtype=dtype),
    ):
        assert {value.dtype.name for value in captured.values()} == {dtype}


def test_some_places_alone():
    twins = side("vit_test")
    images = random_images(twins.config, 1)
    # The input of a norm is the block's before, and so left out unless it is asked for.
    places = {"blocks.1.norm1:input", "output"}
    captured = capture_torch(twins.twin("torch"), images, places=places)
    whole = capture_torch(twins.twin("torch"), images)
    assert set(captured) == places
    assert "blocks.1.norm1:input" not in whole
    np.testing.assert_array_equal(captured["blocks.1.norm1:input"], whole["blocks.0"])


@dataclasses.dataclass
class Result:
    text: str
    tokens: tuple[torch.Tensor, ...]


class Foreign(nn.Module):
    """A user's: a layer that is called twice, results that are no tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.twice = nn.Linear(4, 4)

    def forward(self, images):
        x = self.conv(images).flatten(2).transpose(1, 2)
        return Result("done", (self.twice(self.twice(x)), x))


def test_foreign_torch_modules():
    captured = capture_torch(Foreign(), IMAGES)
    shapes = {name: value.shape for name, value in captured.items()}
    tokens = (2, 6, 4)
    assert shapes == {"conv": (2, 2, 3, 4), "twice": tokens, "twice#2": tokens, "output": tokens}
    np.testing.assert_array_equal(captured["output"], captured["twice#2"])


class Stack(nnx.Module):
    """A user's: stored blocks under one scan."""

    def __init__(self, *, scan: bool, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.scan = scan

    def __call__(self, x):
        if not self.scan:
            for layer in self.layers:
                x = jnp.tanh(layer(x))
            return x
        graphdef, _ = nnx.split(self.layers[0])
        states = jax.tree.map(lambda *a: jnp.stack(a), *(nnx.state(layer) for layer in self.layers))
        return jax.lax.scan(lambda x, state: (jnp.tanh(nnx.merge(graphdef, state)(x)), None), x, states)[0]


def test_foreign_flax_modules():
    model = Stack(scan=False, rngs=nnx.Rngs(0))
    captured = capture_flax(model, IMAGES, dtype="float64")
    assert list(captured) == ["layers.0", "layers.1:input", "layers.1", "output"]
    expected = np.tanh(np.tanh(captured["layers.0"]) @ np.asarray(model.layers[1].kernel[...], np.float64))
    assert compare({"x": captured["output"]}, {"x": expected}).ok(FORWARD["float64"].limit)


def test_modules_in_a_scan_are_refused():
    with pytest.raises(ValueError, match="inside of scan"):
        capture_flax(Stack(scan=True, rngs=nnx.Rngs(0)), IMAGES)
