"""Canonical names are timm's, and so are preprocessing and defaults: of every registered model, without allocating."""

from __future__ import annotations

import pytest
import timm

from benchmarks import coverage, timm_peer
from parity import configs

ARCHITECTURES = sorted(set(configs.names()) & set(timm.list_models()))
# Small models for tests and for the digits.
OURS_ALONE = [*configs.names("vit_test*"), "vit_digits"]


def test_every_registered_model_but_our_own_is_one_of_timm():
    assert sorted([*ARCHITECTURES, *OURS_ALONE]) == configs.names()


@pytest.mark.parametrize("entry", timm_peer.entries())
def test_names_and_shapes(entry):
    assert coverage.check_entry(entry).fault == ""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_preprocessing(name):
    expected = timm.get_pretrained_cfg(name)
    images = configs.get(name).preprocessing
    assert (images.mean, images.std) == (tuple(expected.mean), tuple(expected.std))
    assert images.interpolation == expected.interpolation
    assert images.crop_pct == expected.crop_pct
    assert images.crop_mode == (expected.crop_mode or "center")


def test_the_comparison_can_fail(monkeypatch):
    wrong = configs.get("vit_tiny_patch16_224", reg_tokens=1)
    monkeypatch.setattr(timm_peer, "config_of", lambda entry: wrong)
    fault = coverage.check_entry("vit_tiny_patch16_224").fault
    assert "missing reg_token" in fault
    assert "misshapen pos_embed" in fault
