"""The training level: a few steps agree to rounding, and a wrong optimiser is noticed."""

from __future__ import annotations

import pytest

from parity import configs
from parity.checks import check_training
from parity.tolerances import TRAINING_LOSS

STEPS = 4
ARGUMENTS = dict(steps=STEPS, dtypes=["float64"], batch_size=4, depth=1)


def _beta2(state):
    for group in state.opt_state.param_groups:
        group["betas"] = (group["betas"][0], 0.9991)


def _eps(state):
    for group in state.opt_state.param_groups:
        group["eps"] = 2e-8


def _decay_mask(state):
    for group in state.opt_state.param_groups:
        group["weight_decay"] = 0.05


def _bias_correction(state):
    """Counts one step too many from the second step on."""
    late = []

    def count(optimizer, *_):
        if not late:
            late.extend(values["step"].add_(1) for values in optimizer.state.values())

    state.opt_state.register_step_post_hook(count)


def _average(state):
    """The average forgets its start."""
    for value in state.ema.values():
        value.data.mul_(1 + 1e-6)


# The first part that is off: what is behind an update shows in the loss of the next step.
PLANTS = {
    "beta2": (_beta2, "loss"),
    "eps": (_eps, "loss"),
    "decay mask": (_decay_mask, "loss"),
    "bias correction": (_bias_correction, "loss"),
    "average": (_average, "ema"),
}


def test_a_few_steps_agree():
    seen = []
    report = check_training("vit_digits", on_step=lambda *values: seen.append(values), **ARGUMENTS)
    assert report.passed, report.failures
    assert report.part_names == ("loss", "grad_norm", "parameters", "mu", "nu", "ema")
    # Every kind of step was made: learning rates rise, and clipping had something to clip.
    curves = report["float64"].curves
    assert curves["learning_rate"][0][0] < curves["learning_rate"][0][1]
    assert max(curves["grad_norm"][0]) > 1
    assert [(dtype, step) for dtype, step, *_ in seen] == [("float64", step) for step in range(1, STEPS + 1)]
    assert tuple(left for _, _, left, _ in seen) == curves["loss"][0]
    assert report.config.drop_path_rate > 0


def _statistics(state):
    """The running statistics move more slowly."""
    for value in state.statistics.values():
        value.mul_(1 + 1e-6)


def test_statistics_are_part_of_training():
    config = configs.get("vit_digits", patch_size=2, stem="conv", stem_convs=((8, 3, 2),), num_heads=4, embed_dim=16)
    report = check_training(config, **ARGUMENTS)
    assert report.passed, report.failures
    assert report.part_names[-2:] == ("ema", "statistics")
    report = check_training(config, plant=_statistics, **ARGUMENTS)
    # The average of the statistics is off, too.
    assert [failure.split(":")[1].strip() for failure in report.failures] == ["ema", "statistics"]


def test_a_model_of_three_channels_and_another_size():
    report = check_training("vit_test_dinov3", image_size=(16, 24), **ARGUMENTS)
    assert report.passed, report.failures
    assert report.config.num_classes == 10


@pytest.mark.parametrize("plant", PLANTS)
def test_a_wrong_optimiser_is_noticed(plant):
    apply, first = PLANTS[plant]
    report = check_training("vit_digits", plant=apply, **ARGUMENTS)
    assert not report.passed
    wrong = [part.name for part in report["float64"].parts if not part.passed]
    assert wrong[0] == first, report.failures
    assert report.failures[0].startswith(f"float64: {first}: first divergence at ")


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="dtypes: got 'float16'"):
        check_training("vit_digits", dtypes=["float16"])
    with pytest.raises(ValueError, match="batch_size: got 3, expected a multiple of 2"):
        check_training("vit_digits", steps=1, batch_size=3)
    assert TRAINING_LOSS["float64"].limit < TRAINING_LOSS["float32"].limit < TRAINING_LOSS["bfloat16"].limit
