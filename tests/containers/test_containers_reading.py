"""Each container gives the tensors that were written, whole and in parts, and reads no more than it is asked for."""

from __future__ import annotations

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from parity.checkpoints import CheckpointError, Tensors, dtypes_of, open_tensors, shapes_of, slice_of, write_tensors
from parity.checkpoints.containers.safetensors_file import DTYPES
from parity.checkpoints.containers.stored import FileTensors
from parity.compare import not_identical

TORCH_FILES = ("weights.pt", "weights_legacy.pt", "training.pt", "training_legacy.pt")


def torch_tensors(path) -> FileTensors:
    """The sample tensors in one of `TORCH_FILES`."""
    opened = open_tensors(path)
    return opened.under("model.module.") if "model.module.index" in opened else opened


@pytest.fixture(params=["safetensors", "shards", "npz", "compressed npz", *TORCH_FILES])
def opened(request, tmp_path, tensors, torch_files) -> Tensors:
    """The sample tensors in each container."""
    match request.param:
        case "safetensors":
            safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
            return open_tensors(tmp_path / "x.safetensors")
        case "shards":
            write_tensors(tmp_path, tensors, shard_bytes=100)
            assert len(list(tmp_path.glob("*.safetensors"))) > 2
            return open_tensors(tmp_path)
        case "npz":
            np.savez(tmp_path / "x.npz", **tensors)
            return open_tensors(tmp_path / "x.npz")
        case "compressed npz":
            np.savez_compressed(tmp_path / "x.npz", **tensors)
            return open_tensors(tmp_path / "x.npz")
        case name:
            return torch_tensors(torch_files / name)


def test_every_tensor_to_the_bit(opened, tensors):
    assert set(opened) == set(tensors)
    assert len(opened) == len(tensors)
    assert opened.shapes() == shapes_of(tensors)
    assert opened.dtypes() == dtypes_of(tensors)
    assert not_identical(dict(opened), tensors) == ()
    assert all(value.flags.c_contiguous and value.dtype.isnative for value in opened.values())
    assert all(opened.file_of(name).is_file() for name in opened)
    with pytest.raises(KeyError):
        opened["no such tensor"]


def test_parts(opened, tensors):
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        for _ in range(20):
            axes = int(rng.integers(0, tensor.ndim + 1))
            bounds = [sorted(map(int, rng.integers(0, size + 1, 2))) for size in tensor.shape[:axes]]
            index = tuple(slice(*bound) for bound in bounds)
            part = opened.slice(name, index)
            assert part.shape == tensor[index].shape
            assert np.array_equal(part, tensor[index])
            assert np.array_equal(slice_of(tensors, name, index), part)


def test_asking_for_names_shapes_and_types_reads_no_tensor(opened, monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("parity.checkpoints.containers.stored.StoredArray.read", fail)
    assert "head.bias" in opened
    assert "nothing" not in opened
    assert shapes_of(opened).keys() == dtypes_of(opened).keys() == set(opened)
    with pytest.raises(AssertionError):
        opened["head.bias"]


def test_every_tensor_of_a_training_checkpoint_under_its_path(torch_files, tensors):
    assert open_tensors(torch_files / "weights.pt").ignored == {}
    for name in ("training.pt", "training_legacy.pt"):
        opened = open_tensors(torch_files / name)
        weights = [f"model.module.{name}" for name in tensors]
        average = [f"model_ema.{name}" for name in tensors]
        assert sorted(opened) == sorted([*weights, *average, "optimizer.state.0.step"])
        assert opened.ignored == dict.fromkeys(["epoch", "optimizer.param_groups", "args"], "no tensor")
        assert not_identical(dict(opened.under("model.module.")), tensors) == ()
        with pytest.raises(CheckpointError, match=rf"{name}: got tensors under \['model', .*, expected some under x"):
            opened.under("x")


def test_only_the_wanted_numbers_are_read(tmp_path):
    """Of a file of which 99 % are missing on disk, a tensor and a part of one at its start can be read."""
    np.savez(tmp_path / "x.npz", a=np.arange(4.0), b=np.zeros((1000, 10)))
    write_tensors(tmp_path, {"a": np.arange(4.0), "b": np.ones((1000, 10))})
    for name in ("x.npz", "model.safetensors"):
        opened = open_tensors(tmp_path / name)
        with (tmp_path / name).open("rb+") as file:
            file.truncate(opened.arrays["b"].offset + 800)
        assert np.array_equal(opened["a"], np.arange(4.0))
        assert opened.slice("b", (slice(2, 10),)).shape == (8, 10)
        with pytest.raises(CheckpointError, match=rf"{name}: tensor b: the file ends 79200 bytes too early"):
            opened["b"]


def test_numbers_of_google_s_files(tmp_path):
    """Names with slashes, Fortran order, big-endian numbers, and bfloat16 as NumPy sees it without ml_dtypes."""
    rng = np.random.default_rng(0)
    arrays = {
        "Transformer/encoderblock_0/kernel": np.asfortranarray(rng.normal(size=(3, 4))),
        "opt/step": np.array(3, ">i8"),
        "pos": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        with np.load(tmp_path / "x.npz") as plain:
            assert plain["pos"].dtype.kind == "V"
        opened = open_tensors(tmp_path / "x.npz")
        assert opened.dtypes()["pos"] == ml_dtypes.bfloat16
        assert not_identical(dict(opened), {**arrays, "opt/step": np.array(3)}) == ()
        part = opened.slice("Transformer/encoderblock_0/kernel", (slice(1, 3), slice(0, 2)))
        assert np.array_equal(part, arrays["Transformer/encoderblock_0/kernel"][1:3, :2])


def test_a_file_is_known_by_its_bytes(tmp_path, torch_files, tensors):
    for name in TORCH_FILES:
        shutil.copy(torch_files / name, tmp_path / "pytorch_model.bin")
        assert not_identical(dict(torch_tensors(tmp_path)), tensors) == ()
    np.savez(tmp_path / "x.npz", **tensors)
    (tmp_path / "x.npz").rename(tmp_path / "x.ckpt")
    assert not_identical(dict(open_tensors(tmp_path / "x.ckpt")), tensors) == ()
    # The safe container is preferred where a directory has both.
    write_tensors(tmp_path, {"a": np.ones(3)})
    assert set(open_tensors(tmp_path)) == {"a"}


def test_shards_of_pytorch(tmp_path, torch_files, tensors):
    shutil.copy(torch_files / "weights.pt", tmp_path / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert not_identical(dict(open_tensors(tmp_path)), tensors) == ()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_type_of_safetensors(tmp_path, dtype):
    value = np.arange(1, 5).astype(dtype)
    write_tensors(tmp_path, {"a": value})
    assert open_tensors(tmp_path)["a"].dtype == dtype
    assert np.array_equal(open_tensors(tmp_path)["a"], value)
