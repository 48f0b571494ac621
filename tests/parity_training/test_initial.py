"""The values of a seed: the same in parts and in whole, in both frameworks, of the distributions that are said."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jax.nn import initializers
from scipy import stats

import vit_jax.sharding
import vit_jax.state_dict
import vit_jax.train_step
import vit_torch.models
import vit_torch.state_dict
import vit_torch.train_step
from benchmarks import reduced
from parity import configs, recipes
from parity.checkpoints import parameter_shapes
from parity.configs.augmentation import Augmentation
from parity.recipes.initial import InitialTensors, law

SMALL = dict(embed_dim=48, depth=2, num_heads=4, mlp_dim=96)
NAMES = ["vit_digits", "vit_base_patch16_siglip_224", "vit_test_reg_scale", "vit_base_patch16_rope_mixed_ape_224"]
# What differs by chance is rejected as another distribution once in ten thousand times.
CHANCE = 1e-4
# What the seed 0 gives a head of two classes and two channels.
EXPECTED = [[-0.02070004865527153, 0.01778031326830387], [-0.0037838821299374104, 0.025243133306503296]]


def tensors_of(config: configs.Config, initialization: str = "timm", seed: int = 0) -> InitialTensors:
    return InitialTensors(parameter_shapes(config), config, initialization, seed)


@pytest.mark.parametrize("initialization", ["timm", "jax", "moco", "big_vision"])
def test_a_part_is_a_part_of_the_whole(initialization):
    # One that many counters share, one of four axes, one of one, and one that is a number.
    shapes = {
        "a.weight": (700, 300),
        "proj.weight": (64, 3, 16, 16),
        "b.bias": (64,),
        "cls_token": (1, 1, 48),
        "scale": (),
    }
    drawn = InitialTensors(shapes, configs.get("vit_digits"), initialization, 3)
    rows = (slice(0, 1), slice(0, 350), slice(350, 700), slice(217, 440), slice(63, 64))
    for name in shapes:
        whole = drawn[name]
        assert whole.shape == shapes[name]
        assert whole.dtype == np.float32
        assert drawn.slice(name, ()).shape == shapes[name]
        for part in rows:
            for index in ((part,), (part, slice(None, 7)), (slice(None),)):
                if len(index) <= whole.ndim:
                    assert np.array_equal(drawn.slice(name, index), whole[index]), (name, index)


def test_seed_and_name_decide():
    shapes = {"a.weight": (40, 30), "b.weight": (40, 30)}
    drawn = [InitialTensors(shapes, configs.get("vit_digits"), "timm", seed) for seed in (0, 0, 1)]
    same, other = (drawn[i]["a.weight"] for i in (1, 2))
    assert np.array_equal(drawn[0]["a.weight"], same)
    for different in (other, drawn[0]["b.weight"]):
        assert abs(np.corrcoef(same.ravel(), different.ravel())[0, 1]) < 0.1


def test_values_are_those_of_the_first_release():
    """A run is to be repeated by those who come later: the numbers may not change."""
    found = InitialTensors({"head.weight": (2, 2)}, configs.get("vit_digits"), "timm", 0)["head.weight"]
    assert found.tolist() == np.array(EXPECTED, np.float32).tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("initialization", ["timm", "big_vision"])
def test_both_frameworks_start_from_the_same(name, initialization):
    recipe = recipes.get("digits", overrides=SMALL if name == "vit_digits" else {}, initialization=initialization)
    config = recipe.config(10) if name == "vit_digits" else configs.get(name).narrowed().reduced(2)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augmentation=Augmentation()))
    mesh = vit_jax.sharding.make_mesh(data=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        trainer = vit_jax.train_step.make_trainer(recipe, config, mesh)
        flax = trainer.init(recipe.seed)
    rules = {name: rule for name, _, rule, _ in vit_jax.state_dict.named_leaves(trainer.model)}
    pytorch = vit_torch.train_step.make_trainer(recipe, config).init(recipe.seed)
    drawn = tensors_of(config, initialization, recipe.seed)
    left, right = flax.params | flax.statistics, pytorch.params | pytorch.statistics
    assert left.keys() == right.keys() == drawn.keys()
    for name, expected in drawn.items():
        assert np.array_equal(rules[name].to_canonical(np.asarray(left[name])), expected), name
        assert np.array_equal(vit_torch.state_dict.to_numpy(right[name]), expected), name


def test_what_is_not_drawn_is_what_both_constructors_say():
    """Norms, LayerScale, statistics and biases, of every kind of option that a registered model has."""
    seen = set()
    for config in reduced.representatives(list(reduced.distinct_options(configs.names(), 2))):
        shapes = parameter_shapes(config)
        model = vit_torch.models.create_model(config)
        made = vit_torch.state_dict.state_dict(model)
        for name, shape in shapes.items():
            chosen = law(name, shapes, config, "timm")
            if chosen.kind == "constant" and config.initial(name, shape, np.random.default_rng(0)) is None:
                seen.add(name.rpartition(".")[2])
                assert np.all(made[name] == np.float32(chosen.scale)), (config, name)
    assert {"weight", "bias", "gamma"} <= seen


def big_vision(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """What big_vision draws for a kernel of Flax's layout, by the initialisers that it names."""
    made = {
        "embedding": initializers.lecun_normal(),  # the default of flax.linen.Conv
        "attention": initializers.xavier_uniform(),
        "mlp": initializers.xavier_uniform(),
        "mlp bias": initializers.normal(1e-6),
        "pos_embed": initializers.normal(1 / np.sqrt(shape[-1])),
        "probe": initializers.xavier_uniform(),
    }
    return np.asarray(made[kind](jax.random.key(1), shape))


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("patch_embed.proj.weight", "embedding", (16, 16, 3, 192)),
        ("blocks.0.attn.proj.weight", "attention", (192, 192)),
        ("blocks.0.mlp.fc1.weight", "mlp", (192, 768)),
        ("blocks.0.mlp.fc1.bias", "mlp bias", (768,)),
        ("pos_embed", "pos_embed", (1, 196, 192)),
        ("attn_pool.latent", "probe", (1, 1, 192)),
    ],
)
def test_the_distribution_is_big_visions(name, kind, shape):
    config = configs.get("vit_tiny_patch16_224", class_token=False, global_pool="map")
    found, expected = tensors_of(config, "big_vision")[name], big_vision(kind, shape)
    assert found.size == expected.size
    assert stats.ks_2samp(found.ravel(), expected.ravel()).pvalue > CHANCE
    assert stats.ks_2samp(found.ravel(), 1.2 * expected.ravel()).pvalue < CHANCE or found.size < 1000


def test_projections_that_are_one_tensor_are_drawn_as_big_vision_draws_three():
    found = tensors_of(configs.get("vit_tiny_patch16_224"), "big_vision")["blocks.0.attn.qkv.weight"]
    expected = big_vision("attention", (192, 192))
    for part in np.split(found, 3):
        assert stats.ks_2samp(part.ravel(), expected.ravel()).pvalue > CHANCE


def test_what_big_vision_leaves_at_zero():
    drawn = tensors_of(configs.get("vit_tiny_patch16_224"), "big_vision")
    for name in ("head.weight", "head.bias", "cls_token", "blocks.0.attn.qkv.bias", "patch_embed.proj.bias"):
        assert not drawn[name].any(), name
