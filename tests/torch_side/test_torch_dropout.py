"""Dropout follows PyTorch's habit: each module's own mode decides, and PyTorch's generator is drawn from."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import vit_torch
from vit_torch import random
from vit_torch.layers.attention import Attention
from vit_torch.layers.drop import Dropout, DropPath, dropout
from vit_torch.layers.mlp import Mlp

RATES = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)
LAYERS = {
    "dropout": partial(Dropout, 0.2),
    "attention": partial(Attention, 12, 3, attn_drop_rate=0.2),
    "result": partial(Attention, 12, 3, drop_rate=0.2),
    "mlp": partial(Mlp, 12, 16, drop_rate=0.2),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_alone_draws_in_training_mode(kind):
    layer, x = LAYERS[kind](), torch.ones(2, 3, 12)
    torch.manual_seed(0)
    one, other = layer(x), layer(x)
    torch.manual_seed(0)
    assert torch.equal(layer(x), one)
    assert not torch.equal(one, other)
    keyed = layer(x, key=random.key(0))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    assert not torch.equal(layer(x), one)
    # A key draws in either mode.
    assert torch.equal(layer(x, key=random.key(0)), keyed)
    assert not torch.equal(keyed, layer(x))


def test_drop_path_keeps_whole_samples():
    x = torch.ones(64, 5)
    dropped = DropPath()(x, 0.5)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert all(len(row.unique()) == 1 for row in dropped)
    assert torch.equal(DropPath().eval()(x, 0.5), x)
    assert torch.equal(DropPath()(x, None), x)
    assert torch.equal(dropout(x, 0.5, None), x)


def test_a_part_in_evaluation_mode_drops_nothing(make_model, make_images):
    """A backbone that is frozen by `eval()` gives the same features in a model that is trained."""
    model = make_model(**RATES, depth=2)
    images = make_images(model)
    expected = model(images)
    model.train()
    for part in (model.pos_drop, *model.blocks):
        part.eval()
    assert model.training
    assert torch.equal(model(images), expected)
    model.blocks[1].train()
    assert not torch.equal(model(images), expected)


def test_a_new_model_is_in_training_mode_and_a_loaded_one_in_evaluation_mode(tmp_path, make_images):
    model = vit_torch.create_model("vit_test", depth=1, **RATES)
    assert all(module.training for module in model.modules())
    vit_torch.save(model, tmp_path / "model")
    loaded = vit_torch.load(tmp_path / "model")
    assert not any(module.training for module in loaded.modules())
    images = make_images(model)
    assert torch.equal(loaded(images), model.eval()(images))


def test_rates_are_shown():
    shown = str(nn.ModuleList([Dropout(0.25)]))
    assert "Dropout(rate=0.25)" in shown
