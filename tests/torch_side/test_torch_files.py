"""Files of this environment's own PyTorch, read without it, against what `torch.load` makes of them."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.checkpoints import CheckpointError, open_tensors
from vit_torch.state import to_numpy


def save(value, path, *, legacy: bool):
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views(tmp_path, legacy):
    base = torch.arange(2.0 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    views = {
        "whole": base,
        "transposed": base.permute(3, 1, 0, 2),
        "cut": base[:, 1:, ::2, 3],
        "one": base[1, 2, 3, 4],
        "empty": base[:, 3:],
        "parameter": torch.nn.Parameter(base[0].T if base[0].ndim == 2 else base[0]),
        "double": base.double()[:, :1],
        "half": base.half()[1:],
        "bfloat16": base.bfloat16()[..., 1:3],
        "bool": (base > 50)[0, 0].T,
        "complex": torch.complex(base[0, 0], base[0, 1]),
        **{f"int{bits}": base.to(getattr(torch, f"int{bits}"))[0] for bits in (8, 16, 32, 64)},
        "uint8": base.to(torch.uint8),
    }
    opened = open_tensors(save(views, tmp_path / "x.pt", legacy=legacy))
    expected = torch.load(tmp_path / "x.pt", weights_only=True)
    assert list(opened) == list(views)
    assert opened.shapes() == {name: tuple(value.shape) for name, value in expected.items()}
    for name, value in expected.items():
        array = to_numpy(value)
        assert opened.dtypes()[name] == array.dtype
        assert np.array_equal(opened[name], array)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"])
def test_types_without_a_storage_class(tmp_path, dtype):
    value = torch.arange(1, 7).to(torch.float32).to(getattr(torch, dtype)).reshape(2, 3)
    found = open_tensors(save({"a": value[:, 1:]}, tmp_path / "x.pt", legacy=False))
    assert found.dtypes()["a"].name == dtype
    assert np.array_equal(found["a"].astype(np.float32), value[:, 1:].to(torch.float32).numpy())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_modules_buffers_and_training_state(tmp_path, legacy):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(a=np.float32(3), b=(1, 2), c={"x": None}, d={1, 2}, e=Path("x")),
        "scaler": OrderedDict(),
        "epoch": 9,
    }
    opened = open_tensors(save(state, tmp_path / "x.pth", legacy=legacy))
    assert set(opened.ignored) == {"optimizer", "args", "scaler", "epoch"}
    for name, value in model.state_dict().items():
        assert np.array_equal(opened[name], value.numpy())


def test_a_storage_that_two_tensors_share(tmp_path):
    shared = torch.arange(6.0)
    opened = open_tensors(save({"a": shared[:4], "b": shared[2:]}, tmp_path / "x.pt", legacy=False))
    assert opened["a"].tolist() == [0, 1, 2, 3]
    assert opened["b"].tolist() == [2, 3, 4, 5]


def test_an_expanded_tensor_is_refused(tmp_path):
    """A view that repeats its storage is larger than the file, as large as the file says."""
    path = save({"a": torch.ones(1).expand(10**9, 10**3)}, tmp_path / "x.pt", legacy=False)
    with pytest.raises(CheckpointError, match=r"x\.pt: tensor 'a': .* expected a part of its storage of 4 bytes"):
        open_tensors(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_whole_model_is_refused_by_the_name_of_its_class(tmp_path, legacy):
    path = save(torch.nn.Linear(2, 2), tmp_path / "x.pt", legacy=legacy)
    with pytest.raises(CheckpointError, match=r"x\.pt: refused: it names 'torch\.nn\.modules\.linear\.Linear'"):
        open_tensors(path)


def test_torchscript_is_refused(tmp_path):
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match=r"x\.pt: a TorchScript program"):
        open_tensors(tmp_path / "x.pt")
