"""Images that aren't normalised are an error that says `preprocess`; in what is traced or compiled nobody looks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import vit_jax.images
import vit_torch.images
from parity import configs
from parity.configs import Preprocessing

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(2, 24, 40, 3)).astype(np.float32)
RAW = RNG.integers(0, 256, (2, 24, 40, 3))
PREPROCESSING = Preprocessing()
SIDES = {"vit_jax": vit_jax.images, "vit_torch": vit_torch.images}
side = pytest.mark.parametrize("side", SIDES)
# Types of both frameworks under one name.
INTEGERS = ("uint8", "int8", "int16", "int32", "int64", "bool")
FLOATS = ("float16", "bfloat16", "float32", "float64")


def array(side: str, values: np.ndarray, dtype: str):
    if side == "vit_torch":
        return torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype))
    with jax.enable_x64(dtype in ("float64", "int64")):
        return jnp.asarray(values, dtype)


def check(side: str, images: object, preprocessing: Preprocessing = PREPROCESSING) -> None:
    SIDES[side].check_images(images, preprocessing)


@side
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_refused(side, dtype):
    said = rf"images: got (torch\.)?{dtype}, expected normalised floats: {side}\.preprocess\(images, model\) makes them"
    with pytest.raises(ValueError, match=said):
        check(side, array(side, RAW, dtype))


@side
@pytest.mark.parametrize("dtype", FLOATS)
def test_raw_floats_are_refused_where_they_are_at_hand(side, dtype):
    check(side, array(side, NORMAL, dtype))
    check(side, array(side, RAW / 255, dtype))
    said = rf"got values up to 25[45], expected normalised ones, at most 2\.64: {side}\.preprocess\(images, model\)"
    with pytest.raises(ValueError, match=said):
        check(side, array(side, np.minimum(RAW, 254), dtype))


@side
def test_what_a_model_may_take_follows_from_its_preprocessing(side):
    raw = array(side, RAW, "float32")
    check(side, raw, Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3))
    check(side, array(side, NORMAL * 8, "float32"), Preprocessing(std=(0.02,) * 3))
    with pytest.raises(ValueError, match=r"at most 29\.7"):
        check(side, raw, Preprocessing(std=(0.02,) * 3))


@side
def test_every_registered_model_takes_its_own_white(side):
    for preprocessing in {configs.get(name).preprocessing for name in configs.names()}:
        check(side, array(side, np.full((1, 2, 2, 3), preprocessing.greatest), "float32"), preprocessing)
        with pytest.raises(ValueError, match="got values up to 255"):
            check(side, array(side, np.full((1, 2, 2, 3), 255.0), "float32"), preprocessing)


@side
@pytest.mark.parametrize(
    "values", [np.full((1, 2, 2, 3), np.nan), np.full((1, 2, 2, 3), -255.0), np.zeros((0, 2, 2, 3))]
)
def test_other_mistakes_are_not_of_these_words(side, values):
    check(side, array(side, values, "float32"))


@side
def test_what_is_no_array(side):
    kind = "an array" if side == "vit_jax" else "a tensor"
    for images, name in ((NORMAL.tolist(), "list"), ("x.png", "str"), (None, "NoneType")):
        with pytest.raises(ValueError, match=f"images: got {name}, expected {kind}: {side}.preprocess"):
            check(side, images)
    with pytest.raises(ValueError, match=r"got ndarray, expected a tensor: vit_torch\.preprocess"):
        check("vit_torch", NORMAL)
    check("vit_jax", NORMAL)
    with pytest.raises(ValueError, match="got uint8, expected normalised floats"):
        check("vit_jax", RAW.astype(np.uint8))


def test_jax_transformations():
    """Integers are seen while they are traced; floats aren't looked at."""

    def model(images: jax.Array) -> jax.Array:
        check("vit_jax", images)
        return images.astype(jnp.float32).sum()

    raw = jnp.asarray(RAW, jnp.float32)
    for run in (jax.jit, jax.vmap, jax.grad, jax.checkpoint, lambda f: functools.partial(jax.eval_shape, f)):
        run(model)(raw)
        if run is not jax.grad:
            with pytest.raises(ValueError, match="got int32, expected normalised floats"):
                run(model)(raw.astype(jnp.int32))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(raw, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    with pytest.raises(ValueError, match="got values up to 255"):
        model(sharded)


class Model(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        check("vit_torch", images)
        return images.float().mean()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_torch_transformations():
    """Nothing is looked at in a graph, which would break it; integers are seen before it is compiled."""
    raw = array("vit_torch", RAW, "float32")
    compiled = torch.compile(Model(), fullgraph=True, backend="eager")
    assert compiled(raw) == raw.mean()
    with pytest.raises(Exception, match="expected normalised floats"):
        torch.compile(Model(), fullgraph=True, backend="eager")(raw.int())
    for strict in (False, True):
        batch = torch.export.Dim("batch", min=2)
        exported = torch.export.export(Model(), (raw,), dynamic_shapes=({0: batch},), strict=strict)
        assert exported.module()(raw) == raw.mean()
    torch.func.vmap(Model())(raw)
    torch.func.vmap(torch.func.grad(Model()))(raw)
    assert torch.jit.trace(Model(), raw / 255)(raw) == raw.mean()
    Model()(raw.to("meta"))
    with FakeTensorMode() as mode:
        Model()(mode.from_tensor(raw))
    with pytest.raises(ValueError, match="got values up to 255"):
        Model()(raw.requires_grad_())
