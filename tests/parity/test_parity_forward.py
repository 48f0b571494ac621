"""Forward parity in three precisions, from parameters that are random in every tensor.

A few test models are checked in every precision; the others and the usual widths, in float64, are a sweep. Every set of
options is in `test_parity_gradients.py`, whose one compilation gives outputs and gradients. docs/parity.md, which
`python -m benchmarks.table` writes, has every set of options in every precision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from benchmarks.reduced import distinct_sizes
from parity import checkpoints, configs
from parity.checks import check_forward, fits, random_images, random_parameters, required_bytes
from parity.checks.forward import DTYPES, exact_jax
from parity.compare import compare, not_identical
from parity.configs import Execution
from parity.tolerances import FORWARD

TEST_MODELS = configs.names("vit_test*")
SIZES = distinct_sizes(name for name in configs.names("vit_*") if configs.get(name).embed_dim <= 1024)

EXECUTIONS = {
    "reference": Execution(attention="reference"),
    "scan": Execution(scan=True),
    "remat": Execution(remat="block"),
    "scan, remat dots, reference": Execution(scan=True, remat="dots", attention="reference"),
}

# The smallest of real models.
NARROW = ("vit_small_patch8_224", "vit_medium_patch32_clip_224")

# Each kind of norm, activation, attention, position and pooling; docs/parity.md has all models in every precision.
IN_EVERY_PRECISION = (
    "vit_test",
    "vit_test_dinov3",
    "vit_test_swiglu",
    "vit_test_map",
    "vit_test_scaling_differential",
    "vit_test_conv_stem",
)


def in_core(names: Iterable[str], core: Collection[str]) -> list[Any]:
    """Those that aren't in the core are a sweep."""
    assert set(core) <= set(names)
    return [pytest.param(name, marks=() if name in core else pytest.mark.sweep) for name in names]


@pytest.mark.parametrize("name", in_core([*TEST_MODELS, "vit_digits"], IN_EVERY_PRECISION))
def test_test_models(name):
    dtypes = list(DTYPES) if name in IN_EVERY_PRECISION else ["float64"]
    report = check_forward(name, dtypes=dtypes)
    assert report.passed, report.failures
    assert [precision.dtype for precision in report.precisions] == dtypes
    places = [difference.name for difference in report["float64"]["outputs"].comparison.differences]
    blocks = [f"blocks.{i}" for i in range(configs.get(name).depth)]
    assert places == ["patch_embed", *blocks, "forward_features", "logits"]


@pytest.mark.parametrize("name", in_core(SIZES.values(), NARROW))
def test_usual_widths(name):
    report = check_forward(configs.get(name, num_classes=0).reduced(1), dtypes=["float64"], batch_size=1)
    assert report.passed, report.failures


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("name", ["vit_test_map", "vit_test_dinov3", "vit_test_rope_mixed", "vit_test_beit"])
def test_every_execution(name, execution):
    report = check_forward(name, execution=execution, dtypes=["float64"])
    assert report.passed, report.failures


@pytest.mark.parametrize("name", ["vit_test_dist", "vit_test_gap"])
def test_places_are_what_the_models_return(name):
    config = configs.get(name)
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed=3)
    images = random_images(config, 2, seed=4)
    with exact_jax(np.float64):
        model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))
        vit_jax.state_dict.load_state_dict(model, tensors)
        logits = np.asarray(jax.jit(lambda x: model(x))(jnp.asarray(images)))
    twin = vit_torch.create_model(config, device="meta").eval()
    vit_torch.state_dict.load_state_dict(twin, tensors)
    with torch.inference_mode():
        twin_logits = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    found = compare({"logits": logits}, {"logits": twin_logits})
    limit = FORWARD["float64"].limit
    assert found.ok(limit)
    # The check saw these logits: its distance from a twin with another head is theirs, too.
    planted = check_forward(config, images=images, seed=3, dtypes=["float64"], plant=lambda m: m.head.bias.add_(1))
    with torch.inference_mode():
        twin.head.bias.add_(1)
        other = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    expected = compare({"logits": logits}, {"logits": other}).differences[0].relative_l2
    assert expected > limit
    assert abs(planted["float64"]["outputs"].at("logits").relative_l2 - expected) < limit


def test_given_images_are_used():
    images = random_images(configs.get("vit_test"), 3, seed=8)
    given = check_forward("vit_test", dtypes=["float64"], images=images)["float64"]["outputs"].at("logits")
    random = check_forward("vit_test", dtypes=["float64"], batch_size=3)["float64"]["outputs"].at("logits")
    assert given.left_shape == random.left_shape == (3, 10)
    assert given != random


def test_float64_does_not_leak():
    check_forward("vit_test", dtypes=["float64"])
    assert jnp.ones(1).dtype == jnp.float32
    with pytest.raises(ValueError, match="float64"), exact_jax(np.float64):
        raise ValueError(jnp.ones(1).dtype)
    assert jnp.ones(1).dtype == jnp.float32
    assert jax.config.jax_default_matmul_precision is None


def test_reduced_depth_keeps_the_values_of_the_first_blocks():
    whole = random_parameters(checkpoints.parameter_shapes(configs.get("vit_test")), seed=1)
    part = random_parameters(checkpoints.parameter_shapes(configs.get("vit_test", depth=1)), seed=1)
    assert set(part) < set(whole)
    assert not_identical(part, {name: whole[name] for name in part}) == ()
    other = random_parameters(checkpoints.parameter_shapes(configs.get("vit_test")), seed=2)
    assert len(not_identical(whole, other)) == len(whole)


def test_random_parameters_hide_nothing():
    tensors = random_parameters(checkpoints.parameter_shapes(configs.get("vit_test_reg_scale")))
    for name, value in tensors.items():
        assert value.dtype == np.float64, name
        assert np.unique(value).size == value.size, name
        assert not np.any((value == 0) | (value == 1)), name


def test_activations_stay_of_order_one_at_any_depth():
    config = configs.get("vit_test", depth=40)
    model = vit_torch.create_model(config).eval()
    vit_torch.state_dict.load_state_dict(model, random_parameters(checkpoints.parameter_shapes(config)))
    images = random_images(config, 1).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        outputs = model.forward_intermediates(torch.from_numpy(images))
    sizes = [float(output.std()) for output in outputs]
    assert 0.5 < min(sizes) <= max(sizes) < 10, sizes


@pytest.mark.parametrize(
    ("depth", "image_size"),
    [
        (None, None),
        (2, (32, 56)),
        pytest.param(2, None, marks=pytest.mark.sweep),
        pytest.param(None, (32, 56), marks=pytest.mark.sweep),
    ],
)
def test_a_checkpoint_is_checked_with_its_own_parameters(tmp_path, depth, image_size):
    config = configs.get("vit_test_reg_scale")
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed=5)
    checkpoints.write(tmp_path / "model", config, {k: v.astype(np.float32) for k, v in tensors.items()})
    report = check_forward(tmp_path / "model", depth=depth, image_size=image_size)
    assert report.passed, report.failures
    assert report.config.depth == (depth or config.depth)
    assert report.config.image_size == (image_size or config.image_size)
    # A path may be a string; and it isn't the random model of the same config.
    again = check_forward(str(tmp_path / "model"), depth=depth, image_size=image_size, dtypes=["float64"])["float64"][
        "outputs"
    ]
    assert again.at("logits") == report["float64"]["outputs"].at("logits")
    random = check_forward(report.config, dtypes=["float64"])["float64"]["outputs"]
    assert random.at("logits") != report["float64"]["outputs"].at("logits")


def test_a_tensor_with_an_entry_for_each_block_is_cut_to_the_first_blocks(tmp_path):
    config = configs.get("vit_test_rope_mixed")
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed=6)
    checkpoints.write(tmp_path / "model", config, tensors)
    part = check_forward(tmp_path / "model", depth=2, dtypes=["float64"])
    assert part.passed, part.failures
    whole = check_forward(tmp_path / "model", dtypes=["float64"])["float64"]["outputs"]
    assert part["float64"]["outputs"].at("blocks.1") == whole.at("blocks.1")


def test_images_are_given_by_name_too():
    images = random_images(configs.get("vit_test"), 3, seed=8)
    one, other = (check_forward("vit_test", dtypes=["float64"], images=given) for given in (images, {"images": images}))
    assert one["float64"] == other["float64"]
    assert other.batch_size == 3
    with pytest.raises(ValueError, match=r"^inputs: got pictures, expected images by name$"):
        check_forward("vit_test", images={"pictures": images})


def test_a_loader_that_changes_a_tensor_is_noticed(tmp_path, monkeypatch):
    config = configs.get("vit_test")
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    checkpoints.write(tmp_path / "model", config, {k: v.astype(np.float32) for k, v in tensors.items()})

    def load(path, **options):
        model = original(path, **options)
        model.blocks[2].mlp.fc1.bias.data[3] += 1e-7
        return model

    original = vit_torch.load
    monkeypatch.setattr(vit_torch, "load", load)
    report = check_forward(tmp_path / "model", dtypes=["float32"])
    assert not report.passed
    assert report.parameter_faults == ("vit_torch.load: blocks.2.mlp.fc1.bias",)
    assert "blocks.2.mlp.fc1.bias" in report.failures[0]


def test_errors_name_what_was_wrong():
    with pytest.raises(ValueError, match=r"dtypes: got 'float16', expected of float64, float32, bfloat16"):
        check_forward("vit_test", dtypes=["float16"])
    with pytest.raises(ValueError, match=r"unknown model 'vit_tset'; did you mean 'vit_test'\?"):
        check_forward("vit_tset")
    with pytest.raises(KeyError, match="float32: not checked; checked were float64"):
        check_forward("vit_test", dtypes=["float64"])["float32"]


def test_what_does_not_fit_is_refused():
    assert fits(configs.get("vit_test"))
    big = configs.get("vit_gigantic_patch14_224", depth=1024)
    assert not fits(big)
    small = configs.get("vit_test")
    assert not fits(small, memory=required_bytes(small) - 1)
    assert fits(small, memory=required_bytes(small))
    assert required_bytes(small, 4) > required_bytes(small, 2)
