"""Files of MobileViTs that timm and transformers write, read here, and what is written for them."""

from __future__ import annotations

import pytest
import timm
import torch
from test_peers_swin_files import drawn

from parity import configs
from parity.checkpoints import convert, open_checkpoint, parameter_shapes


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_a_directory_goes_to_timm_and_back(name, tmp_path):
    options = dict(num_classes=5, act_layer="relu", stem_chs=24)
    peer = drawn(timm.create_model(name, **options))
    timm.models.save_for_hf(peer, tmp_path / "theirs", model_args=options)
    found = open_checkpoint(tmp_path / "theirs")
    assert found.config == configs.get(name, num_classes=5, act="relu", stem_dim=24)
    assert parameter_shapes(found.config) == found.tensors.shapes()
    convert(tmp_path / "theirs", tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "back", to="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    images = torch.randn(1, 3, 75, 64)
    with torch.no_grad():
        assert torch.equal(again(images), peer(images))
