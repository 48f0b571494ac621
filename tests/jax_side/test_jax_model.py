"""What a Flax model does, where there is no PyTorch."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from parity import configs
from vit_jax import random
from vit_jax.models import Model
from vit_jax.state_dict import canonical_shapes, named_leaves, state_dict

# One for each part that can differ.
SMALL = [
    f"vit_test_{name}" for name in ("dist", "swiglu", "map", "rope_mixed", "dinov3", "beit", "scaling_differential")
]
DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)


@pytest.mark.parametrize("name", SMALL)
def test_shapes_of_outputs(name, make_model, make_images):
    model = make_model(name)
    config = model.config
    images = make_images(model, batch=3)
    tokens = (3, config.num_prefix_tokens + config.num_patches, config.embed_dim)
    shapes = partial(jax.eval_shape, images=images)
    assert shapes(model.forward_features).shape == tokens
    assert [output.shape for output in shapes(model.forward_intermediates)] == [tokens] * config.depth
    assert shapes(model).shape == (3, config.num_classes or config.embed_dim)


def test_intermediates_by_index(make_model, make_images):
    model = make_model()
    images = make_images(model)
    every = model.forward_intermediates(images)
    chosen = model.forward_intermediates(images, indices=[2, -1, 0])
    for output, index in zip(chosen, [2, 2, 0], strict=True):
        np.testing.assert_array_equal(output, every[index])
    assert model.forward_intermediates(images, indices=[]) == []
    (last,) = model.forward_intermediates(images, indices=[-1], norm=True)
    np.testing.assert_array_equal(last, model.forward_features(images))
    np.testing.assert_array_equal(model(images), model.forward_head(last))
    for index in (3, -4):
        with pytest.raises(ValueError, match=rf"^indices: got {index}, expected values in \[-3, 3\)$"):
            model.forward_intermediates(images, indices=[index])


@pytest.mark.parametrize("shape", [(2, 40, 24, 3), (2, 24, 40, 1), (2, 3, 24, 40), (24, 40, 3)])
def test_images_of_another_shape_are_refused(shape, make_model):
    with pytest.raises(ValueError, match=r"images: got shape .*, expected \(batch, \*\(24, 40\), 3\) \(NHWC\)"):
        make_model()(jnp.zeros(shape))


def test_overrides_and_configs():
    def create(model: str | configs.Config, **overrides: int) -> Model:
        return nnx.eval_shape(lambda: vit_jax.create_model(model, rngs=nnx.Rngs(0), **overrides))

    model = create("vit_test", num_classes=7, depth=2)
    assert len(model.blocks) == 2
    assert canonical_shapes(model)["head.weight"] == (7, 48)
    assert create(configs.get("vit_test"), num_classes=7, depth=2).config == model.config
    assert create("vit_test", num_classes=0).head is None
    with pytest.raises(ValueError, match=r"did you mean 'vit_test'"):
        vit_jax.create_model("vit_tes", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"did you mean 'depth'"):
        vit_jax.create_model("vit_test", dept=2, rngs=nnx.Rngs(0))


def test_initial_values_come_from_the_seed():
    one, same, other = (
        state_dict(vit_jax.create_model("vit_test_reg_scale", rngs=nnx.Rngs(seed))) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    assert not np.array_equal(one["blocks.0.attn.qkv.weight"], one["blocks.1.attn.qkv.weight"])
    assert {value.dtype for value in one.values()} == {np.dtype("float32")}
    assert (one["blocks.0.ls1.gamma"] == np.float32(1e-5)).all()


@pytest.mark.parametrize("field", DROPS)
def test_each_kind_of_dropout_depends_on_the_key_alone(field, make_model, make_images):
    model = make_model(**{field: DROPS[field]})
    images = make_images(model, batch=8)
    one = model(images, key=random.key(0))
    np.testing.assert_array_equal(one, model(images, key=random.key(0)))
    assert not np.array_equal(one, model(images, key=random.key(1)))
    without = model(images)
    np.testing.assert_array_equal(without, model(images))
    assert not np.array_equal(one, without)
    # The rates are nothing without a key, and a key is nothing without rates.
    np.testing.assert_array_equal(without, make_model()(images))
    np.testing.assert_array_equal(without, make_model()(images, key=random.key(0)))


def test_drop_path_keeps_the_first_block(make_model, make_images):
    model = make_model(drop_path_rate=0.9)
    images = make_images(model, batch=8)
    dropped, whole = model.blocks[-1], model.blocks[0]
    tokens = model.forward_intermediates(images, indices=[0])[0]
    key = random.key(0)
    np.testing.assert_array_equal(whole(tokens, keep_rate=1.0, key=key), whole(tokens))
    out = dropped(tokens, keep_rate=0.1, key=key)
    untouched = [bool((out[i] == tokens[i]).all()) for i in range(8)]
    assert any(untouched)


def test_keep_rate_of_masks():
    mask = random.keep_mask(random.key(0), 0.75, (100, 100))
    assert abs(float(mask.mean()) - 0.75) < 0.02
    assert random.keep_mask(random.key(0), 1.0, (1000,)).all()
    assert random.split(None, 3) == [None, None, None]


@pytest.mark.parametrize("name", SMALL)
def test_parameters_have_axes_and_a_rule_for_their_canonical_form(name, make_model):
    model = make_model(name)
    seen = []
    for key, variable, rule, module in named_leaves(model):
        seen.append(key)
        attribute = next(attribute for attribute, value in vars(module).items() if value is variable)
        axes = dict(getattr(module, "logical_axes", ())).get(attribute)
        if variable.ndim > 1 and not key.endswith(("token", "pos_embed", "latent", "bias_table", "freqs")):
            assert len(axes) == variable.ndim, key
        value = np.asarray(variable[...])
        canonical = rule.to_canonical(value)
        assert canonical.shape == rule.canonical_shape(value.shape)
        np.testing.assert_array_equal(rule.from_canonical(canonical, value.shape), value)
    assert len(seen) == len(set(seen)) == len(jax.tree.leaves(nnx.state(model)))


def test_a_model_is_a_pytree_and_works_under_jit(make_model, make_images):
    model = make_model()
    graphdef, state = nnx.split(model)
    images = make_images(model)
    pure = nnx.to_pure_dict(state)
    logits = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(pure, images)
    assert logits.shape == (2, 10)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(pure))
