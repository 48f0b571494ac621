"""Hierarchies learn the same in both frameworks, with stochastic depth, on maps that nothing divides."""

from __future__ import annotations

import pytest

from parity import configs
from parity.checks import check_training
from parity.configs import Preprocessing
from parity.configs.pvt import PvtConfig


@pytest.mark.sweep  # the core has a flat ViT
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_base_window12to16_192to256"])
def test_a_hundred_steps_of_swin_are_the_same(name):
    digits = dict(
        image_size=8, patch_size=1, in_chans=1, num_classes=10, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,))
    )
    config = configs.replace(configs.get(name).narrowed(), window_sizes=(3, 5), drop_path_rate=0.2, **digits)
    report = check_training(config, dtypes=["float64"])
    assert report.passed, report.failures


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_a_hundred_steps_of_pvt_are_the_same(name):
    # In a map of one token all means are the same, and the true gradient of a query is 0: its rounding isn't compared.
    side = 28 if PvtConfig.of(configs.get(name)).linear else 8
    images = dict(image_size=side, in_chans=1, num_classes=10, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    config = configs.replace(configs.get(name).narrowed(), drop_path_rate=0.2, sr_ratios=(2, 1), **images)
    report = check_training(config, dtypes=["float64"])
    assert report.passed, report.failures
