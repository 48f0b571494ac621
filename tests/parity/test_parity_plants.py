"""The check can fail: errors that ports really have are noticed, and named."""

from __future__ import annotations

import pytest

from benchmarks.plants import MODEL, PLANTS
from parity import checkpoints, configs
from parity.checks import check_forward
from parity.tolerances import USUAL_ELSEWHERE

# Which errors change a tensor; the others change what is computed with it.
TENSORS = {
    "swapped_q_and_k": {"blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.bias"},
    "heads_first": {"blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.bias"},
    "transposed_kernel": {"blocks.1.attn.proj.weight"},
    "channels_last_patches": {"patch_embed.proj.weight"},
    "dropped_bias": {"blocks.1.mlp.fc2.bias"},
    "dropped_layer_scale": {"blocks.1.ls1.gamma"},
    "permuted_positions": {"pos_embed"},
    "transposed_positions": {"pos_embed"},
}
# Which pass at the tolerance that is usual elsewhere: the reason for this project.
UNSEEN_ELSEWHERE = {
    "norm_eps",
    "norm_eps_of_final_norm",
    "gelu_kind",
    "quick_gelu",
    "float32_norm",
    "tf32",
    "float32_softmax",
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_error_fails_and_its_place_is_named(name):
    plant = PLANTS[name]
    report = check_forward(MODEL, dtypes=["float64"], plant=plant.apply)
    outputs = report["float64"]["outputs"]
    unseen = outputs.at("logits").relative_l2 <= USUAL_ELSEWHERE
    assert unseen == (name in UNSEEN_ELSEWHERE)
    assert not report.passed
    assert outputs.first_beyond.name == plant.place
    assert any(f"first divergence at {plant.place}" in line for line in report.failures)
    faults = {fault.removeprefix("float64 torch: ") for fault in report.parameter_faults}
    assert faults == TENSORS.get(name, set())
    # Before the planted place everything agrees, from it on nothing that is computed from all tokens does.
    places = [difference.name for difference in outputs.comparison.differences]
    for difference in outputs.comparison.differences:
        within = difference.relative_l2 <= outputs.tolerance
        assert within == (places.index(difference.name) < places.index(plant.place)), difference


def test_a_model_without_a_plant_passes():
    assert check_forward(MODEL).passed


def test_the_model_has_room_for_every_plant():
    config = configs.get(MODEL)
    rows, columns = config.grid_size
    sizes = [config.embed_dim, config.mlp_dim, config.num_heads, config.head_dim, config.num_patches, rows, columns]
    assert len(set(sizes)) == len(sizes)
    assert set().union(*TENSORS.values()) <= set(checkpoints.parameter_shapes(config))
