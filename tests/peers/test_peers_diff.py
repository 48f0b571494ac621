"""`diff` against models of timm and transformers in which something was changed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.timm_peer import reduced_model
from parity import checkpoints, configs
from parity.checks import random_parameters
from parity.diagnosis.diff import diff

transformers = pytest.importorskip("transformers")


def test_timm_with_another_epsilon():
    config = configs.get("vit_base_patch16_224").narrowed().reduced(2)
    model = reduced_model("vit_base_patch16_224", config, random_parameters(checkpoints.parameter_shapes(config)))
    # The config has no parameters: it takes timm's.
    report = diff(model, config)
    assert report.passed, report.lines
    model.get_submodule("blocks.1.norm2").eps = 1e-5
    report = diff(model, config)
    assert report.place.left == report.place.right == "blocks.1.norm2"
    assert (report.verdict.trial.cause, report.verdict.trial.text) == ("norm_eps", "epsilon 1e-05 for 1e-06")
    assert report.tried_on == "right"
    assert report.verdict.next_place is None
    # Neither is ours: the hypotheses are tried on timm's own modules.
    other = reduced_model("vit_base_patch16_224", config, random_parameters(checkpoints.parameter_shapes(config)))
    report = diff(other, model, image_size=config.image_size)
    assert (report.verdict.trial.cause, report.verdict.trial.path) == ("norm_eps", "blocks.1.norm2")


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory):
    """A model of transformers with random parameters, and the directory that it was saved in."""
    sizes = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80, num_labels=10)
    config = transformers.ViTConfig(image_size=(24, 40), patch_size=(4, 8), **sizes)
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("huggingface")
    model.save_pretrained(path)
    return config, model, path


def test_transformers_has_other_names_and_parts(huggingface):
    _, model, path = huggingface
    report = diff(f"torch:{path}", model)
    assert report.passed, report.lines
    # Everything but qkv, which is three modules there, has found its place.
    assert {name.rpartition(".")[2] for name in report.comparison.only_left} == {"qkv"}
    assert len(report.comparison.differences) > 20


def test_transformers_with_another_activation(huggingface):
    config, model, path = huggingface
    other = transformers.ViTConfig.from_dict({**config.to_dict(), "hidden_act": "gelu_pytorch_tanh"})
    changed = transformers.ViTForImageClassification(other).eval()
    changed.load_state_dict(model.state_dict())
    report = diff(f"torch:{path}", changed)
    assert report.place.left == "blocks.0.mlp.fc2:input"
    assert report.place.before[0] == "blocks.0.mlp.fc1"
    assert (report.verdict.trial.cause, report.verdict.trial.text) == ("activation", "gelu_tanh for gelu")
    assert report.verdict.everywhere
    assert report.verdict.at_output <= report.tolerance
