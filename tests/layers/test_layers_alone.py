"""Each layer can be built and called alone, with plain numbers, and is the same in both twins."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from layer_table import GRID, TABLE, Built
from torch import nn

import vit_jax.state_dict
import vit_torch.state_dict
from parity.checks.capture import is_on_maps
from parity.checks.parameters import random_parameters
from parity.checks.twins import channels_last
from parity.compare import compare
from parity.tolerances import FORWARD

ROOT = Path(__file__).parents[2]

# What other layers are made from.
BASES = {"AttentionCore", "DifferentialCore", "PatchGrid", "Stochastic"}


@pytest.fixture(autouse=True, scope="module")
def float64() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def layer_of(package: str, name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{package}.layers.{module}"), attribute)


def build(package: str, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    layer = layer_of(package, name)
    given = {key: argument(package, value) for key, value in options.items()}
    # A layer without initial values takes no source of them.
    draws = package == "vit_jax" and "rngs" in signature_of(layer)
    return layer(*args, **given, **({"rngs": nnx.Rngs(params=0)} if draws else {}))


def signature_of(layer: type) -> set[str]:
    """Names of the arguments, those included that are passed on to the next class."""
    names: set[str] = set()
    for init in (vars(cls)["__init__"] for cls in layer.__mro__ if "__init__" in vars(cls)):
        parameters = inspect.signature(init).parameters
        names |= set(parameters)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def argument(package: str, value: Any) -> Any:
    """A layer for its name, or one with options."""
    if isinstance(value, str) and "." in value:
        return layer_of(package, value)
    if isinstance(value, tuple) and value and value[0] == "partial":
        return partial(layer_of(package, value[1]), **value[2])
    if isinstance(value, Built):
        return build(package, value.layer, value.args, value.options)
    if isinstance(value, tuple) and value and isinstance(value[0], Built):
        return [build(package, each.layer, each.args, each.options) for each in value]
    return value


def arrays_of(shapes: tuple[Any, ...]) -> list[Any]:
    """Random inputs of the shapes; a grid of patches is given as it is."""
    rng = np.random.default_rng(1)
    return [shape if shape == GRID else rng.normal(size=shape) for shape in shapes]


def flat(value: Any) -> dict[str, Any]:
    """The arrays of a result by their number."""
    parts = [part for each in value for part in flat(each).values()] if isinstance(value, list | tuple) else [value]
    return {str(i): part for i, part in enumerate(parts)}


def run_flax(layer: Any, given: list[Any], options: dict[str, Any]) -> dict[str, np.ndarray]:
    options = {key: jnp.asarray(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    if "key" in options:
        options["key"] = vit_jax.random.key(options["key"])
    # Compiled as one: that is faster than each of its operations on its own.
    found = jax.jit(lambda: layer(*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in given), **options))()
    return {name: np.asarray(value) for name, value in flat(found).items()}


def run_torch(layer: Any, given: list[Any], options: dict[str, Any]) -> dict[str, np.ndarray]:
    options = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in options.items()
    }
    if "key" in options:
        options["key"] = vit_torch.random.key(options["key"])
    if "dtype" in options:
        options |= dict(dtype=getattr(torch, options["dtype"]), device=torch.device("cpu"))
    on_maps = is_on_maps(layer)
    # What neither convolves nor says that it takes maps has channels last, as tokens have them.
    maps = [
        torch.from_numpy(each.transpose(0, 3, 1, 2) if on_maps and each.ndim == 4 else each)
        if isinstance(each, np.ndarray)
        else each
        for each in given
    ]
    with torch.no_grad():
        found = flat(layer(*maps, **options))
    return {name: (channels_last(value) if on_maps else value).numpy() for name, value in found.items()}


@pytest.mark.parametrize("case", TABLE)
def test_a_layer_alone_is_the_same_in_both_twins(case):
    name, args, options, shapes, call = TABLE[case]
    left, right = (build(package, name, args, options) for package in ("vit_jax", "vit_torch"))
    values = random_parameters(vit_torch.state_dict.canonical_shapes(right))
    assert vit_jax.state_dict.canonical_shapes(left) == {key: value.shape for key, value in values.items()}
    vit_jax.state_dict.load_state_dict(left, values)
    vit_torch.state_dict.load_state_dict(right, values)
    left.eval()
    right.eval()
    given = arrays_of(shapes)
    found, expected = run_flax(left, given, call), run_torch(right, given, call)
    assert compare(found, expected).ok(FORWARD["float64"].limit), compare(found, expected).worst
    # An option of the call that does nothing would be equal in both.
    for key in {"mask", "bias", "key"} & set(call):
        others = {option: value for option, value in call.items() if option != key}
        assert not compare(run_torch(right, given, others), expected).ok(FORWARD["bfloat16"].limit), key


def test_the_table_has_every_layer():
    for package, base in (("vit_jax", nnx.Module), ("vit_torch", nn.Module)):
        found = set()
        for file in (ROOT / package / "layers").glob("*.py"):
            module = importlib.import_module(f"{package}.layers.{file.stem}")
            found |= {
                f"{file.stem}.{name}"
                for name, value in vars(module).items()
                if isinstance(value, type)
                and issubclass(value, base)
                and value.__module__ == module.__name__
                and not name.startswith("_")
            }
        assert {name for name in found if name.rpartition(".")[2] not in BASES} == {row[0] for row in TABLE.values()}


def test_a_layer_in_one_line():
    """What the documentation promises."""
    x = np.ones((1, 5, 192), np.float32)
    flax = layer_of("vit_jax", "attention.Attention")(192, 3, rngs=nnx.Rngs(0))
    assert flax(jnp.asarray(x)).shape == x.shape
    assert layer_of("vit_torch", "attention.Attention")(192, 3)(torch.from_numpy(x)).shape == x.shape


@pytest.mark.parametrize(
    ("name", "args", "options", "message"),
    [
        ("attention.Attention", (24, 5), {}, "num_heads: got 5, expected a divisor of dim 24"),
        ("attention.Attention", (24, 0), {}, "num_heads: got 0"),
        ("cross_attention.CrossAttention", (24, 7), {}, "num_heads: got 7"),
        ("pool.AttentionPool", (24, 7, 40), {}, "num_heads: got 7"),
        ("grouped_query.GroupedQueryAttention", (24, 4), dict(num_kv_heads=3), "num_kv_heads: got 3, expected a div"),
        ("differential.DifferentialAttention", (15, 3), {}, "dim / num_heads: got 5, expected an even number"),
        ("parallel.ParallelScalingBlock", (24, 5, 40), {}, "num_heads: got 5"),
        ("rope.RotaryEmbedding", (6,), {}, "head_dim: got 6, expected a multiple of 4"),
        ("norm.GroupNorm", (24,), dict(groups=5), "groups: got 5, expected a divisor of dim 24"),
        ("separable.SeparableAttention", (24, 2), {}, "num_heads: got 2, expected 1 for separable attention"),
        ("mlp.Mlp", (24, 40), dict(act="geglu"), "act: got 'geglu', expected one of gelu, gelu_tanh"),
        ("drop.Dropout", (1.0,), {}, r"rate: got 1.0, expected a value in \[0, 1\)"),
    ],
)
@pytest.mark.parametrize("package", ["vit_jax", "vit_torch"])
def test_numbers_that_make_no_layer_are_an_error(package, name, args, options, message):
    with pytest.raises(ValueError, match=message):
        build(package, name, args, options)


@pytest.mark.parametrize("package", ["vit_jax", "vit_torch"])
def test_differential_attention_takes_no_rotation(package):
    layer = build(package, "differential.DifferentialAttention", (24, 3), {})
    run = run_flax if package == "vit_jax" else run_torch
    with pytest.raises(ValueError, match="rotation: got one, expected None"):
        run(layer, [np.ones((1, 2, 24), np.float32)], dict(rotation=()))
