"""Attention under masks, biases and other lengths is what NumPy's float64 and PyTorch's own module compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import vit_jax.layers.attention as flax_side
import vit_jax.layers.cross_attention
import vit_jax.state_dict
import vit_torch.layers.attention as torch_side
import vit_torch.layers.cross_attention
import vit_torch.state_dict
from parity.checks.parameters import random_parameters
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import FORWARD, GRADIENTS

B, NH, N, M, HD = 2, 3, 4, 6, 5
SCALE = 0.4
RNG = np.random.default_rng(0)
LONE = np.ones((B, 1, N, M), bool)
LONE[1, 0, 2] = False

# Queries, keys, mask and bias; a query of `lone` may attend to nothing.
CASES: dict[str, tuple[int, int, Any, Any]] = {
    "plain": (N, M, None, None),
    "causal": (N, N, np.tril(np.ones((N, N), bool)), None),
    "causal, queries last": (N, M, np.tril(np.ones((N, M), bool), M - N), None),
    "keys": (N, M, (RNG.random((B, 1, 1, M)) < 0.7) | (np.arange(M) == 0), None),
    "every pair": (N, M, (RNG.random((B, NH, N, M)) < 0.6) | (np.arange(M) == 1), None),
    "bias of heads": (N, M, None, RNG.normal(size=(NH, N, M))),
    "bias of pairs": (N, N, None, RNG.normal(size=(N, N))),
    "bias of images": (N, M, None, RNG.normal(size=(B, NH, N, M))),
    "both": (N, N, np.tril(np.ones((N, N), bool)), RNG.normal(size=(NH, N, N))),
    "lone": (N, M, LONE, None),
    "lone with bias": (N, M, LONE, RNG.normal(size=(NH, N, M))),
}


@pytest.fixture(autouse=True, scope="module")
def float64() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def inputs(queries: int, keys: int, dtype: str = "float64") -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(B, length, NH, HD)).astype(dtype) for length in (queries, keys, keys)]


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Any, bias: Any) -> np.ndarray:
    """One query of one head of one image after the other, over the keys that it may attend to."""
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    pairs = (B, NH, q.shape[1], k.shape[1])
    allowed = np.broadcast_to(True if mask is None else mask, pairs)
    added = np.broadcast_to(0.0 if bias is None else bias, pairs)
    for b, n, h in np.ndindex(*q.shape[:3]):
        seen = np.flatnonzero(allowed[b, h, n])
        if not len(seen):
            continue
        scores = np.array([SCALE * (q[b, n, h] @ k[b, m, h]) + added[b, h, n, m] for m in seen])
        weights = np.exp(scores - scores.max())
        out[b, n, h] = weights @ v[b, seen, h] / weights.sum()
    return out


def run_flax(arrays: list[np.ndarray], mask: Any, bias: Any, **options: Any) -> np.ndarray:
    bias = None if bias is None else jnp.asarray(bias.astype(arrays[0].dtype))
    mask = None if mask is None else jnp.asarray(mask)
    given = [jnp.asarray(array) for array in arrays]
    return np.asarray(flax_side.dot_product_attention(*given, scale=SCALE, mask=mask, bias=bias, **options))


def run_torch(arrays: list[np.ndarray], mask: Any, bias: Any, **options: Any) -> np.ndarray:
    bias = None if bias is None else torch.from_numpy(bias.astype(arrays[0].dtype))
    mask = None if mask is None else torch.from_numpy(mask)
    given = [torch.from_numpy(array) for array in arrays]
    return torch_side.dot_product_attention(*given, scale=SCALE, mask=mask, bias=bias, **options).numpy()


@pytest.mark.parametrize("case", CASES)
def test_attention_is_what_numpy_computes(case):
    queries, keys, mask, bias = CASES[case]
    expected = {"x": by_hand(*inputs(queries, keys), mask, bias)}
    for run in (run_flax, run_torch):
        found = {"x": run(inputs(queries, keys), mask, bias)}
        assert compare(found, expected).ok(FORWARD["float64"].limit), run.__name__
        # Fused, which float64 never is; and the reference in the same precision.
        for attention in ("fused", "reference"):
            narrow = {"x": run(inputs(queries, keys, "float32"), mask, bias, execution=Execution(attention=attention))}
            assert compare(narrow, expected).ok(FORWARD["float32"].limit), (run.__name__, attention)
        # A mask or a bias does something.
        if mask is not None or bias is not None:
            assert not compare({"x": run(inputs(queries, keys), None, None)}, expected).ok(FORWARD["bfloat16"].limit)
        if mask is not None and case != "keys":
            inverted = {"x": run(inputs(queries, keys), ~mask, bias)}
            assert not compare(inverted, expected).ok(FORWARD["bfloat16"].limit)


@pytest.mark.parametrize("run", [run_flax, run_torch])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["fused", "reference"])
def test_a_query_that_may_attend_to_nothing_gets_nothing(run, dtype, attention):
    if dtype == "bfloat16":
        arrays = [vit_torch.state_dict.from_numpy(array).bfloat16() for array in inputs(N, M)]
        arrays = [vit_torch.state_dict.to_numpy(array) for array in arrays]
        run = {run_flax: bfloat16_flax, run_torch: bfloat16_torch}[run]
    else:
        arrays = inputs(N, M, dtype)
    found = run(arrays, LONE, None, execution=Execution(attention=attention))
    assert not found[1, 2].any()
    assert np.abs(found).sum(axis=(-1, -2)).astype(bool).sum() == B * N - 1


def bfloat16_flax(arrays: list[np.ndarray], mask: Any, bias: Any, **options: Any) -> np.ndarray:
    return run_flax(arrays, mask, bias, **options).astype(np.float32)


def bfloat16_torch(arrays: list[np.ndarray], mask: Any, bias: Any, **options: Any) -> np.ndarray:
    given = [vit_torch.state_dict.from_numpy(array) for array in arrays]
    return torch_side.dot_product_attention(*given, scale=SCALE, mask=torch.from_numpy(mask), **options).float().numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["plain", "both", "lone with bias"])
def test_the_fused_entry_and_its_gradients(case, dtype):
    """Of JAX, where they are our own on a CPU: the same as of the reference in float64, for the same rounded inputs."""
    queries, keys, mask, bias = CASES[case]
    narrow = [jnp.asarray(array, dtype) for array in inputs(queries, keys)]
    mask = None if mask is None else jnp.asarray(mask)

    def run(q: Any, k: Any, v: Any, attention: str) -> Any:
        extra = None if bias is None else jnp.asarray(bias, jnp.promote_types(q.dtype, jnp.float32))
        options = dict(mask=mask, bias=extra, execution=Execution(attention=attention))
        return flax_side.dot_product_attention(q, k, v, scale=SCALE, **options)

    found = []
    for attention, given in (("fused", narrow), ("reference", [x.astype(jnp.float64) for x in narrow])):
        out, back = jax.vjp(lambda *given, attention=attention: run(*given, attention), *given)
        gradients = back(jnp.cos(jnp.arange(out.size).reshape(out.shape)).astype(out.dtype))
        # What is differentiated is what is run.
        assert np.array_equal(run(*given, attention), out)
        assert {x.dtype for x in (out, *gradients)} == {given[0].dtype}
        found.append({name: np.asarray(x, np.float64) for name, x in zip("xqkv", (out, *gradients), strict=True)})
    assert compare(*found).ok(GRADIENTS[dtype].limit), compare(*found).worst


@pytest.mark.parametrize("bias", [None, CASES["lone with bias"][3]], ids=["mask", "mask and bias"])
def test_gradients_of_masked_attention_are_equal_and_finite(bias):
    """In float64 those of the twins; in float32 those of the fused entries, which a lone query could make NaN."""
    for dtype, limit in (("float64", GRADIENTS["float64"].limit), ("float32", GRADIENTS["float32"].limit)):
        arrays = inputs(N, M, dtype)
        extra = None if bias is None else jnp.asarray(bias.astype(dtype))

        def loss(q: Any, k: Any, v: Any, extra: Any = extra) -> Any:
            x = flax_side.dot_product_attention(q, k, v, scale=SCALE, mask=jnp.asarray(LONE), bias=extra)
            return (x * jnp.sin(x)).sum()

        left = jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, arrays))
        given = [torch.from_numpy(array).requires_grad_() for array in arrays]
        extra = None if bias is None else torch.from_numpy(bias.astype(dtype))
        x = torch_side.dot_product_attention(*given, scale=SCALE, mask=torch.from_numpy(LONE), bias=extra)
        (x * torch.sin(x)).sum().backward()
        right = {name: tensor.grad.numpy() for name, tensor in zip("qkv", given, strict=True)}
        found = compare({name: np.asarray(value) for name, value in zip("qkv", left, strict=True)}, right)
        assert found.ok(limit), found.worst
        assert all(np.isfinite(value).all() for value in right.values())


def test_what_others_make_of_a_query_without_keys():
    """What the module's docstring says of PyTorch's module and of JAX's function."""
    q, k, v = (jnp.asarray(array) for array in inputs(N, M, "float32"))
    theirs = jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(LONE))
    mean = {"x": np.asarray(v[1].mean(axis=0))}
    assert compare({"x": np.asarray(theirs[1, 2])}, mean).ok(FORWARD["float32"].limit)
    module = nn.MultiheadAttention(NH * HD, NH, batch_first=True, dtype=torch.float64)
    x, mask = torch.randn(1, N, NH * HD, dtype=torch.float64), torch.zeros(N, N, dtype=torch.bool)
    mask[2] = True
    assert module(x, x, x, attn_mask=mask, need_weights=True)[0][0, 2].isnan().all()


@pytest.mark.parametrize("side", [flax_side, torch_side])
def test_the_causal_mask(side):
    assert np.array_equal(np.asarray(side.causal_mask(4)), CASES["causal"][2])
    assert np.array_equal(np.asarray(side.causal_mask(N, M)), CASES["causal, queries last"][2])


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_mask_is_of_booleans(dtype):
    mask = np.ones((N, M), dtype)
    for run in (run_flax, run_torch):
        with pytest.raises(ValueError, match=r"mask: got .*(float|int)32 of shape \(4, 6\), expected bool, True where"):
            run(inputs(N, M), mask, None)


def twins(left: nnx.Module, right: nn.Module) -> dict[str, np.ndarray]:
    """Gives both the same random float64 values, and returns them."""
    values = random_parameters(vit_torch.state_dict.canonical_shapes(right))
    vit_jax.state_dict.load_state_dict(left, values)
    vit_torch.state_dict.load_state_dict(right, values)
    left.eval()
    right.eval()
    return values


def module_of(values: dict[str, np.ndarray], weights: list[str], dim: int, **options: Any) -> nn.MultiheadAttention:
    """PyTorch's own module with the values of a layer: its input weights are one matrix."""
    module = nn.MultiheadAttention(dim, NH, batch_first=True, dtype=torch.float64, **options)
    given = {
        "in_proj_weight": np.concatenate([values[f"{name}.weight"] for name in weights]),
        "in_proj_bias": np.concatenate([values[f"{name}.bias"] for name in weights]),
        "out_proj.weight": values["proj.weight"],
        "out_proj.bias": values["proj.bias"],
    }
    module.load_state_dict({name: torch.from_numpy(value) for name, value in given.items()})
    return module.eval()


PEER_MASKS: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {
    "plain": (None, None),
    "causal": (np.tril(np.ones((N, N), bool)), None),
    "keys": (np.array([[1, 1, 1, 0], [1, 0, 1, 1]], bool)[:, None, None, :], None),
    "bias": (None, RNG.normal(size=(N, N))),
}


@pytest.mark.parametrize("kind", PEER_MASKS)
def test_attention_is_pytorchs_own(kind):
    dim = NH * HD
    left = flax_side.Attention(dim, NH, rngs=nnx.Rngs(0))
    right = torch_side.Attention(dim, NH)
    module = module_of(twins(left, right), ["qkv"], dim)
    mask, bias = PEER_MASKS[kind]
    x = np.random.default_rng(2).normal(size=(B, N, dim))
    keys = None if kind != "keys" else torch.from_numpy(~mask[:, 0, 0])
    pairs = {"plain": None, "keys": None, "causal": None if mask is None else ~mask, "bias": bias}[kind]
    pairs = None if pairs is None else torch.from_numpy(pairs)
    given = torch.from_numpy(x)
    expected = module(given, given, given, key_padding_mask=keys, attn_mask=pairs, need_weights=False)[0]
    options = {name: value for name, value in (("mask", mask), ("bias", bias)) if value is not None}
    found = {
        "flax": np.asarray(left(jnp.asarray(x), **{name: jnp.asarray(value) for name, value in options.items()})),
        "torch": right(given, **{name: torch.from_numpy(value) for name, value in options.items()}).detach().numpy(),
    }
    for side, value in found.items():
        assert compare({"x": value}, {"x": expected.detach().numpy()}).ok(FORWARD["float64"].limit), side


def test_cross_attention_is_pytorchs_own():
    dim = NH * HD
    left = vit_jax.layers.cross_attention.CrossAttention(dim, NH, rngs=nnx.Rngs(0))
    right = vit_torch.layers.cross_attention.CrossAttention(dim, NH)
    module = module_of(twins(left, right), ["q", "kv"], dim)
    rng = np.random.default_rng(3)
    x, context = rng.normal(size=(B, N, dim)), rng.normal(size=(B, M, dim))
    mask = CASES["keys"][2]
    given, others = torch.from_numpy(x), torch.from_numpy(context)
    keys = torch.from_numpy(~mask[:, 0, 0])
    expected = {"x": module(given, others, others, key_padding_mask=keys, need_weights=False)[0].detach().numpy()}
    flax = {"x": np.asarray(left(jnp.asarray(x), jnp.asarray(context), mask=jnp.asarray(mask)))}
    found = {"x": right(given, others, mask=torch.from_numpy(mask)).detach().numpy()}
    assert compare(flax, expected).ok(FORWARD["float64"].limit)
    assert compare(found, expected).ok(FORWARD["float64"].limit)
