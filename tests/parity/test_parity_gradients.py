"""Gradient parity, and that a wrong backward pass is found and named."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.state_dict
from benchmarks.reduced import distinct_options, distinct_sizes, representatives
from parity import checkpoints, configs
from parity.checkpoints.shapes import is_statistic
from parity.checks import check_gradients, random_images, random_parameters
from parity.checks.gradients import IMAGES
from parity.checks.twins import DTYPES, exact_jax
from parity.compare import layer_scales
from parity.configs import Execution
from parity.tolerances import FINITE_DIFFERENCE, GRADIENTS
from vit_torch.layers.drop import Dropout

OPTIONS = distinct_options(configs.names(), 1)
FEW = representatives(OPTIONS)
SWEPT = [
    pytest.param(config, id=names[0], marks=() if config in FEW else pytest.mark.sweep)
    for config, names in OPTIONS.items()
]
SIZES = distinct_sizes(name for name in configs.names("vit_*") if configs.get(name).embed_dim <= 200)
LIMIT = GRADIENTS["float64"].limit


@pytest.mark.parametrize("config", SWEPT)
def test_every_set_of_options(config):
    report = check_gradients(config, dtypes=["float64"])
    assert report.passed, report.failures
    # Outputs of every place, and gradients of everything, were compared.
    outputs = [difference.name for difference in report["float64"]["outputs"].comparison.differences]
    assert outputs == list(config.places)
    gradients = [difference.name for difference in report["float64"]["gradients"].comparison.differences]
    parameters = [name for name in checkpoints.parameter_shapes(config) if not is_statistic(name)]
    inputs = [one.name for one in config.inputs if one.vocabulary is None]
    assert IMAGES in inputs
    assert set(gradients) == {*parameters, *inputs}
    assert gradients[-len(inputs) :] == inputs
    # A model with BatchNorm is checked as it is trained, too.
    statistics = [name for name in checkpoints.parameter_shapes(config) if is_statistic(name)]
    parts = {part.name: part for part in report["float64"].parts}
    assert ("statistics" in parts) == bool(statistics)
    if statistics:
        assert {one.name for one in parts["statistics"].comparison.differences} == set(statistics)
        assert {one.name for one in parts["gradients_in_training"].comparison.differences} == set(gradients)


def test_no_registered_model_is_left_out():
    names = configs.names()
    # The few have every value of every field, if not every set of them.
    fields = {field.name for config in OPTIONS for field in dataclasses.fields(config)}
    for field in fields:
        assert {str(getattr(c, field, "")) for c in OPTIONS} == {str(getattr(c, field, "")) for c in FEW}, field
    assert sorted(name for group in OPTIONS.values() for name in group) == names
    # One that differs in an option, and one that differs in nothing that a forward pass sees.
    assert configs.get("vit_test", norm_eps=1e-5).reduced(2) != configs.get("vit_test").reduced(2)
    assert configs.get("vit_base_patch16_384").reduced(2) == configs.get("vit_base_patch16_224").reduced(2)


@pytest.mark.parametrize("name", SIZES.values())
def test_real_widths(name):
    report = check_gradients(configs.get(name, num_classes=0).reduced(1), dtypes=["float64"], batch_size=1)
    assert report.passed, report.failures


@pytest.mark.parametrize(
    "name",
    [
        "vit_test_reg_scale",
        pytest.param("vit_test_dinov3", marks=pytest.mark.sweep),
        pytest.param("vit_test_scaling_differential", marks=pytest.mark.sweep),
    ],
)
def test_every_precision(name):
    report = check_gradients(name, depth=1)
    assert report.passed, report.failures
    assert [precision.dtype for precision in report.precisions] == list(DTYPES)


@pytest.mark.parametrize("name", [pytest.param("vit_test_map", marks=pytest.mark.sweep), "vit_test_things"])
def test_the_same_masks_give_the_same_gradients(name):
    report = check_gradients(name, dtypes=["float64"], stochastic=True)
    assert report.passed, report.failures
    assert report.settings == {"stochastic": True}
    assert report.config.drop_path_rate > 0
    # The masks did something: these aren't the outputs without them.
    plain = check_gradients(name, dtypes=["float64"], depth=1)["float64"]["outputs"]
    drawn = check_gradients(name, dtypes=["float64"], depth=1, stochastic=True, seed=0, plant=_without_rates)
    assert plain.passed
    assert not drawn["float64"]["outputs"].passed


@pytest.mark.parametrize("remat", ["block", "dots"])
def test_recomputed_activations_give_the_same_gradients(remat):
    execution = Execution(scan=True, remat=remat)
    report = check_gradients("vit_test", dtypes=["float64"], execution=execution)
    assert report.passed, report.failures


def test_gradients_are_those_of_the_definition():
    """Of one parameter and of the images, by finite differences along a random direction."""
    config = configs.get("vit_test", depth=1)
    tensors, images = random_parameters(checkpoints.parameter_shapes(config), seed=2), random_images(config, 2, seed=2)
    from parity.checks import gradients

    _, flax, _ = gradients.run_flax(config, tensors, images, Execution(), 2)
    with exact_jax(np.float64):
        model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))

        def loss(tensors, images):
            vit_jax.state_dict.load_state_dict(model, tensors)
            features = model.forward_features(jnp.asarray(images))
            outputs = [np.asarray(features), np.asarray(model.forward_head(features))]
            cotangents = gradients._cotangents([output.shape for output in outputs], np.float64, 2)
            return sum(float((c * o).sum()) for c, o in zip(cotangents, outputs, strict=True))

        rng, step = np.random.default_rng(0), 1e-5
        for name in ("blocks.0.attn.qkv.weight", IMAGES):
            value = images if name == IMAGES else tensors[name]
            direction = rng.standard_normal(value.shape)
            ends = []
            for sign in (-1, 1):
                moved = value + sign * step * direction
                ends.append(loss(tensors, moved) if name == IMAGES else loss(tensors | {name: moved}, images))
            expected = float((flax[name] * direction).sum())
            assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(expected, rel=FINITE_DIFFERENCE.limit)


def _without_rates(model):
    for module in model.modules():
        if isinstance(module, Dropout):
            module.rate = 0.0


def _detached_branch(model):
    model.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output.detach())


def _detached_scores(model):
    """What flows into the queries and keys of one block is lost; outputs are the same."""
    model.blocks[1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: torch.cat([output[:, :, :2].detach(), output[:, :, 2:]], dim=2)
    )


def _scaled(name, factor):
    return lambda model: model.get_parameter(name).register_hook(lambda grad: grad * factor)


def _exchanged_q_and_k(model):
    def exchange(grad):
        q, k, v = grad.chunk(3)
        return torch.cat([k, q, v])

    model.blocks[1].attn.qkv.weight.register_hook(exchange)


def _one_element(model):
    def change(grad):
        grad = grad.clone()
        grad.view(-1)[7] *= 1 + 1e-6
        return grad

    model.blocks[2].mlp.fc1.weight.register_hook(change)


PLANTS = {
    # In the order of the backward pass the first tensor that is off, and whether others are, too.
    "a branch that gradients don't reach": (_detached_branch, "blocks.1.mlp.fc2.bias", True),
    "queries and keys that gradients don't reach": (_detached_scores, "blocks.1.attn.qkv.bias", True),
    "one gradient scaled by 1 + 1e-6": (_scaled("blocks.0.norm2.weight", 1 + 1e-6), "blocks.0.norm2.weight", False),
    "one bias's gradient scaled by 1 + 1e-6": (_scaled("blocks.1.ls1.gamma", 1 + 1e-6), "blocks.1.ls1.gamma", False),
    "exchanged gradients of query and key": (_exchanged_q_and_k, "blocks.1.attn.qkv.weight", False),
    "one element of one gradient off by 1e-6": (_one_element, "blocks.2.mlp.fc1.weight", False),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_wrong_backward_is_found_and_named(plant):
    apply, place, spreads = PLANTS[plant]
    report = check_gradients("vit_test_reg_scale", dtypes=["float64"], plant=apply)
    part = report["float64"]["gradients"]
    # The forward pass is right, so that nothing else would notice.
    assert report["float64"]["outputs"].passed
    assert not report.passed
    assert part.first_beyond is not None
    assert part.first_beyond.name == place
    assert any(f"gradients: first divergence at {place}" in line for line in report.failures)
    beyond = [d.name for d in part.comparison.differences if not d.relative_l2 <= LIMIT]
    assert (len(beyond) > 1) == spreads


def _other_momentum(model):
    model.patch_embed.stem[1].norm.momentum *= 1 + 1e-6


def _biased_variance(model):
    """The running variance moves towards the mean of n squares: of n values, n - 1 is one part in n less."""
    norm = model.patch_embed.stem[0].norm
    update = norm._update
    norm._update = lambda mean, var: update(mean, var * (1 - 1e-6))


def _other_epsilon(model):
    """Where the batch's own variance is divided by, and in no other mode."""
    norm = model.patch_embed.stem[2].norm
    norm.register_forward_pre_hook(lambda norm, inputs: setattr(norm, "eps", 1e-5 * (1 + 1e-3 * norm.training)))


STATISTICS = {
    "a momentum of 1e-6 more": (_other_momentum, "statistics", "patch_embed.stem.1.norm.running_mean"),
    "a running variance of 1e-6 less": (_biased_variance, "statistics", "patch_embed.stem.0.norm.running_var"),
    "another epsilon in training": (_other_epsilon, "outputs_in_training", "forward_features"),
}


@pytest.mark.parametrize("plant", STATISTICS)
def test_a_wrong_statistic_is_found_and_named(plant):
    """What a model in evaluation mode can't show."""
    apply, part, place = STATISTICS[plant]
    report = check_gradients("vit_test_conv_stem", dtypes=["float64"], plant=apply)
    passed = {part.name: part.passed for part in report["float64"].parts}
    assert passed["outputs"]
    assert passed["gradients"]
    assert not passed[part]
    assert report["float64"][part].first_beyond.name == place


def test_statistics_keep_their_bits_where_parameters_have_few():
    report = check_gradients("vit_test_conv_stem", dtypes=["bfloat16"])
    assert report.passed, report.failures
    assert report["bfloat16"]["statistics"].worst.relative_l2 < GRADIENTS["bfloat16"].limit


# A model whose key has a bias of its own, and no norm after it: softmax ignores it, and its gradient is zero.
ZERO = configs.get("vit_test", qkv_fused=False, depth=2)
K_BIAS = "blocks.1.attn.k_proj.bias"


def test_a_gradient_of_zero_is_no_false_alarm():
    report = check_gradients(ZERO)
    assert report.passed, report.failures
    for dtype in DTYPES:
        found = report[dtype]["gradients"].at(K_BIAS)
        # Both sides are rounding noise: relative to itself, the difference would be of order one.
        assert found.scale > 0
        assert found.relative_l2 <= GRADIENTS[dtype].limit


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0])
def test_the_scale_of_a_bias_hides_no_wrong_gradient(size):
    """A gradient that should be zero and isn't, even if it is tiny beside its weight's."""

    def plant(model):
        weight = model.get_parameter("blocks.1.attn.k_proj.weight")
        rms = 1e-2 * float(weight.square().mean().sqrt())
        model.get_parameter(K_BIAS).register_hook(lambda grad: grad + size * rms)

    report = check_gradients(ZERO, dtypes=["float64"], plant=plant)
    assert report["float64"]["gradients"].first_beyond is not None
    assert report["float64"]["gradients"].first_beyond.name == K_BIAS


def test_scales_are_those_of_the_weight_beside():
    tree = {
        "a.weight": np.full((3, 4), -2.0),
        "a.bias": np.zeros(9),
        "b.bias": np.ones(4),
        "c.weight": np.ones(3),
        "q_bias": np.ones(3),
        "d.lambda_q1": np.ones(4),
        "d.sub_norm.weight": np.full(8, 3.0),
    }
    assert layer_scales(tree) == {"a.bias": 6.0, "d.lambda_q1": 6.0}


def test_errors_name_what_was_wrong():
    with pytest.raises(ValueError, match=r"dtypes: got 'float16', expected of float64, float32, bfloat16"):
        check_gradients("vit_test", dtypes=["float16"])
    with pytest.raises(ValueError, match=r"needs about .* GiB of memory; reduce depth, image_size or batch_size"):
        check_gradients("vit_gigantic_patch14_224", batch_size=4096)
    assert jax.config.values["jax_default_matmul_precision"] is None
