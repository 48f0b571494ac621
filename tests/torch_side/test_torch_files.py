"""Files of this environment's own PyTorch, read without it, against what `torch.load` makes of them."""

from __future__ import annotations

import argparse
import datetime
import pickle
import random
from collections import Counter, OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from parity.checkpoints import CheckpointError, open_tensors
from parity.compare import not_identical
from vit_torch.state_dict import to_numpy


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
    assert set(opened.ignored) == {"optimizer.param_groups", "args", "scaler", "epoch"}
    assert {name.split(".")[0] for name in opened} == {"model", "optimizer"}
    weights = opened.under("model.")
    assert list(weights) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert np.array_equal(weights[name], value.numpy())


def test_a_storage_that_two_tensors_share(tmp_path):
    shared = torch.arange(6.0)
    opened = open_tensors(save({"a": shared[:4], "b": shared[2:]}, tmp_path / "x.pt", legacy=False))
    assert opened["a"].tolist() == [0, 1, 2, 3]
    assert opened["b"].tolist() == [2, 3, 4, 5]


def test_an_expanded_tensor_alone_is_refused(tmp_path):
    """A view that repeats its storage is larger than the file, as large as the file says."""
    path = save({"a": torch.ones(1).expand(10**9, 10**3)}, tmp_path / "x.pt", legacy=False)
    with pytest.raises(CheckpointError, match=r"x\.pt: tensor 'a': expanded tensor: .* repeats a storage of 4 bytes"):
        open_tensors(path)


class Model(torch.nn.Module):
    """Whatever a module can hold."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.BatchNorm1d(3))
        self.tokens = torch.nn.ParameterList([torch.nn.Parameter(torch.arange(2.0))])
        self.register_buffer("positions", torch.arange(3))
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.cache = [torch.zeros(2)]
        self.name = "model"

    def forward(self, x):
        """What it computes is of no interest."""
        return self.layers(x)


class Average:
    """An object that is no module, around one."""

    def __init__(self, model):
        self.module = model
        self.decay = 0.9


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "net.", "module.", "net.module."])
def test_a_whole_model_is_its_state_dict(tmp_path, legacy, prefix):
    model = Model()
    value = Average(model) if "module" in prefix else model
    opened = open_tensors(save({"net": value} if "net" in prefix else value, tmp_path / "x.pt", legacy=legacy))
    assert list(opened) == [f"{prefix}{name}" for name in model.state_dict()]
    for name, tensor in model.state_dict().items():
        assert np.array_equal(opened[f"{prefix}{name}"], tensor.numpy())
    assert opened.ignored == {
        f"{prefix}mask": "a buffer that isn't persistent",
        f"{prefix}cache": "an attribute, which a state_dict leaves out",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_that_are_no_arrays_are_left_out_by_their_kind(tmp_path, legacy):
    odd = {
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "meta": torch.ones(2, device="meta"),
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
        "expanded": torch.ones(1).expand(3),
    }
    opened = open_tensors(save({**odd, "plain": torch.ones(1)}, tmp_path / "x.pt", legacy=legacy))
    assert list(opened) == ["plain"]
    assert opened.ignored.keys() == odd.keys()
    kinds = {"conjugated": "numbers that are conjugated"}
    assert all(kinds.get(name, name) in reason for name, reason in opened.ignored.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_anything_may_be_beside_the_weights(tmp_path, legacy):
    beside = {
        "counts": Counter("aab"),
        "random": np.random.default_rng(0),
        "python": random.getstate(),
        "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        "keys": {(1, 2): 3, frozenset([1]): 2, Average: 1, ("a", ("b",)): 0},
        "function": len,
        "class": Average,
        "text": np.array(["a"]),
        "object": np.array([None]),
    }
    opened = open_tensors(save({"model": {"w": torch.ones(1)}, **beside}, tmp_path / "x.pt", legacy=legacy))
    assert list(opened) == ["model.w"]
    assert opened.ignored.keys() == beside.keys()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles(tmp_path, protocol):
    base = np.arange(6.0).reshape(2, 3)
    value = {
        "model": {"a": base, "transposed": base.T, "big-endian": base.astype(">f4"), "none": base[:0]},
        "bfloat16": base.astype(ml_dtypes.bfloat16),
        "torch": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T.bfloat16()),
        "scalar": np.float32(3),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    opened = open_tensors(tmp_path / "x.pkl")
    assert opened.container == "pickle"
    assert opened.ignored == {"scalar": "no tensor"}
    expected = {f"model.{name}": array for name, array in value["model"].items()}
    expected |= {"bfloat16": value["bfloat16"], "torch": to_numpy(value["torch"])}
    assert (
        not_identical(
            dict(opened), {name: array.astype(array.dtype.newbyteorder("=")) for name, array in expected.items()}
        )
        == ()
    )
    assert np.array_equal(opened.slice("model.transposed", (slice(1, 3), slice(1, 2))), base.T[1:3, 1:2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript(tmp_path, make):
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Sequential(torch.nn.Linear(3, 1))
    )
    model = model.half().eval()
    program = torch.jit.script(model) if make == "script" else torch.jit.trace(model, torch.ones(1, 2).half())
    program.save(str(tmp_path / "x.pt"))
    opened = open_tensors(tmp_path / "x.pt")
    assert opened.container == "torchscript"
    state = program.state_dict()
    assert sorted(opened) == sorted(state)
    assert all(np.array_equal(opened[name], tensor.numpy()) for name, tensor in state.items())
    assert opened.ignored == {}
