"""Execution choices change nothing but time and memory; the precision is that of the parameters."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from parity import configs
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import FORWARD, GRADIENTS
from vit_jax import random
from vit_jax.models import Model

# One for each part that can differ.
SMALL = [
    f"vit_test_{name}" for name in ("dist", "swiglu", "map", "rope_mixed", "dinov3", "beit", "scaling_differential")
]
CHOICES = {
    "scan and remat": Execution(scan=True, remat="block"),
    "remat dots": Execution(remat="dots"),
}
DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)


def outputs(model: Model, images: np.ndarray, key: jax.Array) -> dict[str, np.ndarray]:
    """Logits, and the gradient of every parameter."""
    graphdef, state = nnx.split(model)

    def loss(state: nnx.State) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graphdef, state)(images, key=key)
        return (logits**2).mean(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(state)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradients))
    gradients = {f"gradient{jax.tree_util.keystr(path)}": np.asarray(value) for path, value in leaves}
    return {"logits": np.asarray(logits)} | gradients


def with_execution(model: Model, execution: Execution) -> Model:
    graphdef, state = nnx.split(model)
    other = nnx.merge(graphdef, state)
    other.execution = execution
    return other


@pytest.mark.parametrize("choice", ["scan and remat", pytest.param("remat dots", marks=pytest.mark.sweep)])
def test_outputs_and_gradients_do_not_depend_on_the_execution(choice, make_model, make_images):
    # In float64, where an error can't be taken for rounding, and with everything that draws from the key. Attention
    # isn't among the choices: in float64 it always is the reference.
    with jax.enable_x64(True):
        model = make_model("vit_test_reg_scale", dtype="float64", depth=2, **DROPS)
        images = make_images(model, dtype="float64")
        key = random.key(3)
        expected = outputs(model, images, key)
        comparison = compare(outputs(with_execution(model, CHOICES[choice]), images, key), expected)
        assert comparison.ok(FORWARD["float64"].limit), comparison.worst


@pytest.mark.parametrize("name", SMALL)
def test_fused_attention_is_the_reference(name, make_model, make_images):
    """float64 always runs the reference, so that the fused entry shows in float32 only."""
    model = make_model(configs.get(name).shortened(1))
    graphdef, state = nnx.split(model)
    images = make_images(model)

    def logits(kind: str) -> dict[str, np.ndarray]:
        def run(state: nnx.State) -> jax.Array:
            return with_execution(nnx.merge(graphdef, state), Execution(attention=kind))(images)

        return {"logits": np.asarray(jax.jit(run)(state))}

    fused, reference = logits("fused"), logits("reference")
    assert np.isfinite(fused["logits"]).all()
    assert compare(fused, reference).ok(FORWARD["float32"].limit), compare(fused, reference).worst


def test_blocks_that_differ_are_not_scanned_together(make_model, make_images):
    model = make_model()
    images = make_images(model)
    expected = model(images)
    # Another epsilon makes another graph definition: groups of 1, 1 and 1.
    model.blocks[1].norm1.eps = 1e-2
    changed = model(images)
    model.execution = Execution(scan=True)
    found, wanted = {"logits": np.asarray(model(images))}, {"logits": np.asarray(changed)}
    assert compare(found, wanted).ok(FORWARD["float32"].limit)
    assert not np.array_equal(changed, expected)


def test_the_scanned_program_does_not_grow_with_depth(make_model, make_images):
    def dots(depth: int) -> int:
        model = make_model(depth=depth, execution=Execution(scan=True))
        graphdef, state = nnx.split(model)
        images = make_images(model)
        return str(jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(images))(state)).count("dot_general")

    assert dots(2) == dots(3) == dots(9)


def swin(depth: int, **fields: Any) -> configs.Config:
    """Windows move in every second block of its last stage."""
    sizes: dict[str, Any] = dict(embed_dim=12, mlp_dim=20, num_heads=(2, 3), window_sizes=(3, 3), image_size=(28, 36))
    return configs.get("swin_tiny_patch4_window7_224", depths=(2, depth), num_classes=7, **sizes, **fields)


@pytest.mark.sweep
def test_pairs_are_scanned_where_every_second_block_is_alike(make_model, make_images):
    """With an odd number of blocks, so that one is left over; gradients and masks are those of single blocks."""
    model = make_model(swin(5, drop_path_rate=0.3))
    model.train()
    images, key = make_images(model), random.key(3)
    expected = outputs(with_execution(model, Execution()), images, key)
    found = outputs(with_execution(model, CHOICES["scan and remat"]), images, key)
    assert compare(found, expected).ok(GRADIENTS["float32"].limit)


def test_the_scanned_program_of_pairs_does_not_grow_with_depth(make_model, make_images):
    def dots(depth: int) -> int:
        model = make_model(swin(depth), execution=Execution(scan=True))
        return str(jax.make_jaxpr(model)(make_images(model))).count("dot_general")

    assert dots(4) == dots(12) < dots(5) == dots(9)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("execution", [Execution(), Execution(scan=True, remat="block", attention="reference")])
def test_the_precision_is_that_of_the_parameters(name, dtype, execution, make_model, make_images):
    model = make_model(configs.get(name).shortened(2), dtype=jnp.dtype(dtype), execution=execution, **DROPS)
    graphdef, state = nnx.split(model)
    images = make_images(model)

    def run(state: nnx.State, key: jax.Array | None) -> tuple[jax.Array, list[jax.Array]]:
        model = nnx.merge(graphdef, state)
        return model(images, key=key), model.forward_intermediates(images)

    for key in (None, random.key(0)):
        logits, blocks = jax.eval_shape(run, state, key)
        assert {output.dtype for output in (logits, *blocks)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["vit_test_reg_scale", "vit_test_sincos", "vit_test_map"])
def test_no_float64_leaks_in(name, dtype, make_model, make_images):
    """With x64 enabled, a Python or NumPy number of the wrong kind would widen what it touches."""
    with jax.enable_x64(True):
        model = make_model(name, dtype=jnp.dtype(dtype))
        graphdef, state = nnx.split(model)
        images = make_images(model)
        jaxpr = str(jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(images))(state))
    assert re.findall(r"f64\[[0-9,]+\]", jaxpr) == []
    assert "f32[" in jaxpr


def test_float64_is_float64_throughout(make_model, make_images):
    with jax.enable_x64(True):
        model = make_model("vit_test_reg_scale", dtype="float64")
        graphdef, state = nnx.split(model)
        images = make_images(model, dtype="float64")
        jaxpr = str(jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(images))(state))
        assert jax.eval_shape(model, images).dtype == np.float64
    assert re.findall(r"f32\[[0-9,]+\]", jaxpr) == []
    assert "f64[" in jaxpr


def test_execution_is_no_part_of_the_config(make_model):
    names = {field.name for field in dataclasses.fields(make_model().config)}
    assert names.isdisjoint(field.name for field in dataclasses.fields(Execution))
