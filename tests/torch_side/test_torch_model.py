"""What a PyTorch model does, where there is no JAX."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vit_torch
from parity import configs
from vit_torch import random
from vit_torch.state_dict import canonical_shapes, state_dict

SMALL = [*configs.names("vit_test*"), "vit_digits"]
DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)


@pytest.mark.parametrize("name", SMALL)
def test_shapes_of_outputs(name, make_model, make_images):
    model = make_model(name)
    config = model.config
    images = make_images(model, batch=3)
    tokens = (3, config.num_prefix_tokens + config.num_patches, config.embed_dim)
    features = model.forward_features(images)
    assert features.shape == tokens
    assert [output.shape for output in model.forward_intermediates(images)] == [tokens] * config.depth
    logits = model(images)
    assert logits.shape == (3, config.num_classes or config.embed_dim)
    assert torch.equal(logits, model.forward_head(features))
    assert logits.isfinite().all()


def test_intermediates_by_index(make_model, make_images):
    model = make_model()
    images = make_images(model)
    every = model.forward_intermediates(images)
    chosen = model.forward_intermediates(images, indices=[2, -1, 0])
    assert all(torch.equal(output, every[index]) for output, index in zip(chosen, [2, 2, 0], strict=True))
    assert model.forward_intermediates(images, indices=[]) == []
    (last,) = model.forward_intermediates(images, indices=[-1], norm=True)
    assert torch.equal(last, model.forward_features(images))
    for index in (3, -4):
        with pytest.raises(ValueError, match=rf"^indices: got {index}, expected values in \[-3, 3\)$"):
            model.forward_intermediates(images, indices=[index])


def test_class_and_register_tokens_have_a_norm_of_their_own(make_model, make_images):
    """As in DINOv3, whose `cls_norm` takes the first `n_storage_tokens + 1` tokens."""
    model = make_model("vit_test_dinov3_untied", dtype=torch.float64)
    images = make_images(model)
    (tokens,) = model.forward_intermediates(images, indices=[-1])
    norms = [(model.cls_norm, tokens[:, :3]), (model.norm, tokens[:, 3:])]
    expected = torch.cat([F.layer_norm(x, (48,), norm.weight, norm.bias, 1e-6) for norm, x in norms], dim=1)
    assert torch.equal(model.forward_features(images), expected)
    assert torch.equal(model.forward_intermediates(images, indices=[-1], norm=True)[0], expected)
    assert not torch.equal(model.norm(tokens)[:, :3], expected[:, :3])


@pytest.mark.parametrize("shape", [(2, 3, 40, 24), (2, 1, 24, 40), (2, 24, 40, 3), (3, 24, 40)])
def test_images_of_another_shape_are_refused(shape, make_model):
    with pytest.raises(ValueError, match=r"images: got shape .*, expected \(batch, 3, \*\(24, 40\)\) \(NCHW\)"):
        make_model()(torch.zeros(shape))


def test_overrides_and_configs():
    model = vit_torch.create_model("vit_test", num_classes=7, depth=2)
    assert len(model.blocks) == 2
    assert canonical_shapes(model)["head.weight"] == (7, 48)
    assert vit_torch.create_model(configs.get("vit_test"), num_classes=7, depth=2).config == model.config
    assert vit_torch.create_model("vit_test", num_classes=0).head is None
    with pytest.raises(ValueError, match=r"did you mean 'vit_test'"):
        vit_torch.create_model("vit_tes")
    with pytest.raises(ValueError, match=r"did you mean 'depth'"):
        vit_torch.create_model("vit_test", dept=2)


def test_initial_values_come_from_the_seed():
    def tensors(seed: int) -> dict[str, np.ndarray]:
        torch.manual_seed(seed)
        return state_dict(vit_torch.create_model("vit_test_reg_scale"))

    one, same, other = tensors(0), tensors(0), tensors(1)
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
    assert torch.equal(one, model(images, key=random.key(0)))
    assert torch.equal(one, model.train()(images, key=random.key(0)))
    assert not torch.equal(one, model(images, key=random.key(1)))
    without = model.eval()(images)
    assert torch.equal(without, model(images))
    assert not torch.equal(one, without)
    # The rates are nothing without a key, and a key is nothing without rates.
    assert torch.equal(without, make_model()(images))
    assert torch.equal(without, make_model()(images, key=random.key(0)))


@pytest.mark.parametrize("field", DROPS)
def test_training_mode_draws_from_the_generator_of_pytorch(field, make_model, make_images):
    model = make_model(**{field: DROPS[field]})
    images = make_images(model, batch=8)
    without = model(images)
    model.train()
    torch.manual_seed(0)
    one, other = model(images), model(images)
    torch.manual_seed(0)
    assert torch.equal(one, model(images))
    assert not torch.equal(one, other)
    assert not torch.equal(one, without)
    assert torch.equal(model.eval()(images), without)


def test_a_key_leaves_the_generator_of_pytorch_alone(make_model, make_images):
    model = make_model(**DROPS)
    images = make_images(model)
    before = torch.get_rng_state()
    model(images, key=random.key(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_keep_rate_of_masks():
    for key in (random.key(0), random.GLOBAL):
        torch.manual_seed(0)
        assert abs(float(random.keep_mask(key, 0.75, (100, 100)).double().mean()) - 0.75) < 0.02
        assert random.keep_mask(key, 1.0, (1000,)).all()
    assert random.split(None, 3) == [None, None, None]
    keys = [tuple(key.words.tolist()) for key in random.split(random.key(0), 5)]
    assert len(set(keys)) == 5


def test_a_model_on_meta_allocates_nothing():
    model = vit_torch.create_model("vit_gigantic_patch14_224", device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert list(model.buffers()) == []
