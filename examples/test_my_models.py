"""How to hold a model pair of one's own together: `python -m pytest examples`.

The models share neither names nor code with this project, nor with each other.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from my_models import FlaxMixer, torch_from_flax

from parity.testing import assert_same_model


@pytest.fixture
def flax_model() -> FlaxMixer:
    """With random values in every parameter: zeros and ones hide mistakes."""
    model = FlaxMixer(nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(0)
    leaves = [leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))


@pytest.fixture
def images() -> np.ndarray:
    """Normalised images, higher than wide: a square hides a transposed axis."""
    return np.random.default_rng(1).standard_normal((2, 24, 16, 3))


def test_they_are_the_same(flax_model, images):
    assert_same_model(flax_model, torch_from_flax(flax_model), images, level="layers")


# Both pass `np.testing.assert_allclose(..., rtol=1e-3)`.
@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        ({"eps": 1e-5}, "norm_eps: epsilon 1e-06 for 1e-05, at mlp.0"),
        ({"approximate": "tanh"}, "activation: gelu for GELU"),
    ],
)
def test_a_mistake_is_named(flax_model, images, mistake, cause):
    with pytest.raises(AssertionError, match=f"cause: {cause}"):
        assert_same_model(flax_model, torch_from_flax(flax_model, **mistake), images)
