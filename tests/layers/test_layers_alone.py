"""Each layer can be built and called alone, with plain numbers, and is the same in both twins."""

from __future__ import annotations

import dataclasses
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
from torch import nn

import vit_jax.state_dict
import vit_torch.state_dict
from parity.checks.capture import is_on_maps
from parity.checks.parameters import random_parameters
from parity.checks.twins import channels_last
from parity.compare import compare
from parity.tolerances import FORWARD

ROOT = Path(__file__).parents[2]

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
