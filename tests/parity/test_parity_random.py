"""The same key gives the same masks in both frameworks, bit for bit."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.random
import vit_jax.state_dict
import vit_torch
import vit_torch.random
import vit_torch.state_dict
from parity import checkpoints, configs
from parity.checks import random_images, random_parameters
from parity.checks.forward import exact_jax
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import FORWARD

SEEDS = [0, 1, 2**31 + 5, 2**32 - 1]
SHAPES = [(1,), (7,), (3, 1, 1), (2, 5, 3), (4, 33, 17), (1, 2, 3, 4, 5)]

RATES = {
    "attention dropout": dict(attn_drop_rate=0.4),
    "drop path": dict(drop_path_rate=0.6),
    "all": dict(drop_rate=0.1, attn_drop_rate=0.2, drop_path_rate=0.5),
}


def words(key) -> np.ndarray:
    return np.asarray(jax.random.key_data(key)).astype(np.int64)


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("seed", SEEDS)
def test_keys_and_splits_are_equal(seed, x64):
    with jax.enable_x64(x64):
        key, twin = vit_jax.random.key(seed), vit_torch.random.key(seed)
        assert np.array_equal(words(key), twin.words.numpy())
        for num in (1, 2, 3, 12):
            keys, twins = vit_jax.random.split(key, num), vit_torch.random.split(twin, num)
            assert len(keys) == len(twins) == num
            assert all(np.array_equal(words(a), b.words.numpy()) for a, b in zip(keys, twins, strict=True))
        # Keys of keys, as a model makes them.
        last, last_twin = vit_jax.random.split(keys[-1], 4)[2], vit_torch.random.split(twins[-1], 4)[2]
        assert np.array_equal(words(last), last_twin.words.numpy())


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("keep_rate", [0.9, 1 / 3, 0.5])
def test_masks_are_equal(shape, keep_rate, x64):
    with jax.enable_x64(x64):
        for seed in SEEDS:
            mask = np.asarray(vit_jax.random.keep_mask(vit_jax.random.key(seed), keep_rate, shape))
            twin = vit_torch.random.keep_mask(vit_torch.random.key(seed), keep_rate, shape).numpy()
            assert mask.shape == twin.shape == shape
            assert mask.dtype == twin.dtype == np.bool_
            assert np.array_equal(mask, twin)


def test_masks_keep_the_rate_and_differ_by_key():
    masks = [
        vit_torch.random.keep_mask(key, 0.7, (100, 100)) for key in vit_torch.random.split(vit_torch.random.key(0), 3)
    ]
    # Four standard deviations of the mean of 10,000 draws.
    assert all(abs(mask.double().mean() - 0.7) < 4 * (0.7 * 0.3 / mask.numel()) ** 0.5 for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_no_key_means_no_keys():
    assert vit_jax.random.split(None, 3) == vit_torch.random.split(None, 3) == [None] * 3


def outputs(config, *, seed, execution=Execution(), dtype=np.float64):
    """Logits of both frameworks with the same parameters, images and key; None for no key."""
    tensors = {n: v.astype(dtype) for n, v in random_parameters(checkpoints.parameter_shapes(config)).items()}
    images = random_images(config, 5).astype(dtype)
    with exact_jax(dtype):
        model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(params=0), execution=execution))
        vit_jax.state_dict.load_state_dict(model, tensors)
        model.eval()
        key = None if seed is None else vit_jax.random.key(seed)
        left = np.asarray(jax.jit(lambda x: model(x, key=key))(jnp.asarray(images)))
    twin = vit_torch.create_model(config, device="meta", execution=execution).eval()
    vit_torch.state_dict.load_state_dict(twin, tensors)
    with torch.inference_mode():
        key = None if seed is None else vit_torch.random.key(seed)
        right = twin(torch.from_numpy(images.transpose(0, 3, 1, 2)), key=key).numpy()
    return {"logits": left}, {"logits": right}


# All kinds scanned, one alone, blocks that share keys out otherwise, and augmented rotary coordinates.
PASSES = [
    ("vit_test_reg_scale", "attention dropout", False),
    ("vit_test_reg_scale", "all", True),
    ("vit_test_things", "all", False),
    ("vit_test_scaling_differential", "all", False),
    ("vit_test_dinov3", "drop path", False),
]


@pytest.mark.parametrize(("name", "rates", "scan"), PASSES)
def test_random_forward_passes_are_equal_in_float64(name, rates, scan):
    config = configs.get(name, **RATES[rates])
    left, right = outputs(config, seed=11, execution=Execution(scan=scan))
    assert compare(left, right).ok(FORWARD["float64"].limit)
    # The masks did something: another key does something else.
    other, twin = outputs(config, seed=12, execution=Execution(scan=scan))
    assert compare(other, twin).ok(FORWARD["float64"].limit)
    assert not compare(left, other).ok(FORWARD["bfloat16"].limit)


def test_random_forward_passes_are_equal_in_float32():
    left, right = outputs(configs.get("vit_test_swiglu", **RATES["all"]), seed=3, dtype=np.float32)
    assert compare(left, right).ok(FORWARD["float32"].limit)


def test_rates_without_a_key_change_nothing():
    config = configs.get("vit_test")
    plain, _ = outputs(config, seed=None)
    rated, _ = outputs(dataclasses.replace(config, **RATES["all"]), seed=None)
    assert np.array_equal(plain["logits"], rated["logits"])


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_folded_into_a_key_are_equal(seed):
    key, twin = vit_jax.random.key(seed), vit_torch.random.key(seed)
    found = []
    for number in (0, 1, 77, 2**31 + 5):
        folded = words(vit_jax.random.fold_in(key, number))
        assert np.array_equal(folded, vit_torch.random.fold_in(twin, number).words.numpy())
        found.append(tuple(folded))
    assert len(set(found)) == 4


@pytest.mark.parametrize("shape", [(8, 1, 1), (8, 3, 5)])
def test_rows_of_a_mask_are_those_of_the_whole(shape):
    key = vit_torch.random.fold_in(vit_torch.random.key(3), 4)
    whole = vit_torch.random.keep_mask(key, 0.5, shape)
    rows = vit_torch.random.Threefry(key.words, first_row=5)
    part = vit_torch.random.keep_mask(vit_torch.random.split(rows, 2)[1], 0.5, (2, *shape[1:]))
    assert np.array_equal(
        part.numpy(), vit_torch.random.keep_mask(vit_torch.random.split(key, 2)[1], 0.5, shape).numpy()[5:7]
    )
    assert not whole.all()


@pytest.mark.parametrize("start", [0, 2**18 - 3, 2**32 - 5, 2**33 + 1])
def test_values_from_any_place_are_those_of_the_whole(start):
    """Across the chunks of a CPU, and where the counter's upper word begins to count."""
    key = vit_torch.random.key(7)
    found = vit_torch.random.uniform(key, (11,), start=start)
    one_by_one = [vit_torch.random.uniform(key, (1,), start=start + i) for i in range(11)]
    assert torch.equal(found, torch.cat(one_by_one))
    whole = jax.random.uniform(jax.random.key(7, impl="threefry2x32"), (2**18 + 8,), jnp.float32)
    if start + 11 <= len(whole):
        assert np.array_equal(found.numpy(), np.asarray(whole)[start : start + 11])


def test_without_a_rate_no_key_is_split_and_no_mask_drawn(monkeypatch):
    """A step without dropout pays for none, in either framework."""
    config = configs.get("vit_test")
    images = np.zeros((1, *config.image_size, 3), np.float32)
    for rates, drawn in ((0.0, False), (0.1, True)):
        model = vit_jax.create_model(config.with_rates(drop_path_rate=rates), rngs=nnx.Rngs(params=0))
        graphdef, state = nnx.split(model)
        traced = jax.make_jaxpr(lambda state, key, graphdef=graphdef: nnx.merge(graphdef, state)(images, key=key))
        assert ("random_split" in str(traced(state, vit_jax.random.key(0)))) is drawn
    calls = []
    threefry = vit_torch.random._threefry
    monkeypatch.setattr(vit_torch.random, "_threefry", lambda *given: calls.append(given) or threefry(*given))
    for rates, drawn in ((0.0, False), (0.1, True)):
        twin = vit_torch.create_model(config.with_rates(drop_path_rate=rates))
        twin(torch.from_numpy(images).permute(0, 3, 1, 2), key=vit_torch.random.key(0))
        assert bool(calls) is drawn
