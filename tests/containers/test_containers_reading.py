"""Each container gives the tensors that were written, whole and in parts, and reads no more than it is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from parity.checkpoints import CheckpointError, Tensors, dtypes_of, open_tensors, shapes_of, slice_of, write_tensors
from parity.checkpoints.containers.safetensors_file import DTYPES
from parity.checkpoints.containers.stored import FileTensors
from parity.compare import not_identical

# Files that libraries made of the sample tensors, with the prefix and the container of each.
MADE_FILES = {
    "torch_files/weights.pt": ("", "torch"),
    "torch_files/weights_legacy.pt": ("", "torch"),
    "torch_files/training.pt": ("model.module.", "torch"),
    "torch_files/training_legacy.pt": ("model.module.", "torch"),
    "torch_files/module.pt": ("model.", "torch"),
    "torch_files/torchscript.pt": ("", "torchscript"),
    "torch_files/tensors.pkl": ("", "pickle"),
    "torch_files/arrays_2.pkl": ("model.", "pickle"),
    "torch_files/arrays_5.pkl": ("model.", "pickle"),
    "msgpack_files/model.msgpack": ("", "msgpack"),
    "msgpack_files/checkpoint_1000": ("params.", "msgpack"),
}


def made(data: Path, name: str) -> FileTensors:
    """The sample tensors in one of `MADE_FILES`."""
    return open_tensors(data / name).under(MADE_FILES[name][0])


@pytest.fixture(params=["safetensors", "shards", "npz", "compressed npz", *MADE_FILES])
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
            return made(torch_files.parent, name)


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


@pytest.mark.parametrize("suffix", ["", ".bin", ".safetensors", ".pth", ".npz", ".tar", ".json", ".onnx"])
def test_a_file_is_known_by_its_bytes(tmp_path, torch_files, tensors, suffix):
    for name, (prefix, container) in MADE_FILES.items():
        file = tmp_path / f"x{suffix}"
        shutil.copy(torch_files.parent / name, file)
        opened = open_tensors(file)
        assert opened.container == container
        assert not_identical(dict(opened.under(prefix)), tensors) == ()
    with file.open("wb") as opened_file:
        np.savez(opened_file, **tensors)
    assert open_tensors(file).container == "npz"
    assert not_identical(dict(open_tensors(file)), tensors) == ()
    write_tensors(tmp_path, tensors)
    (tmp_path / "model.safetensors").rename(file)
    assert open_tensors(file).container == "safetensors"
    assert not_identical(dict(open_tensors(file)), tensors) == ()


def test_a_header_as_long_as_another_container_starts(tmp_path):
    """The length comes first: 0x4B50 bytes look like a zip archive, 0x0280 like a pickle, 0x81 like msgpack."""
    write_tensors(tmp_path, {"a": np.arange(4.0)})
    whole = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for longer in (0x4B50, 0x0280, 0x0181):
        padded = longer.to_bytes(8, "little") + whole[8 : 8 + length].ljust(longer) + whole[8 + length :]
        (tmp_path / "x.bin").write_bytes(padded)
        assert open_tensors(tmp_path / "x.bin")["a"].tolist() == [0, 1, 2, 3]


def test_what_a_directory_is_searched_for(tmp_path, torch_files):
    """The safe container is preferred, and Flax's comes last."""
    shutil.copy(torch_files.parent / "msgpack_files" / "model.msgpack", tmp_path / "flax_model.msgpack")
    assert open_tensors(tmp_path).container == "msgpack"
    shutil.copy(torch_files / "weights.pt", tmp_path / "pytorch_model.bin")
    assert open_tensors(tmp_path).container == "torch"
    write_tensors(tmp_path, {"a": np.ones(3)})
    assert set(open_tensors(tmp_path)) == {"a"}


def test_shards_of_pytorch(tmp_path, torch_files, tensors):
    shutil.copy(torch_files / "weights.pt", tmp_path / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert not_identical(dict(open_tensors(tmp_path)), tensors) == ()


def test_shards_of_flax(tmp_path, torch_files, tensors):
    """The index has slashes where the files have dictionaries in dictionaries."""
    shutil.copy(torch_files.parent / "msgpack_files" / "model.msgpack", tmp_path / "flax_model-00001-of-00001.msgpack")
    names = [name.replace(".", "/") for name in tensors]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "flax_model-00001-of-00001.msgpack")}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    opened = open_tensors(tmp_path)
    assert opened.container == "msgpack"
    assert not_identical(dict(opened), tensors) == ()
    index["weight_map"]["blocks/0/x"] = "flax_model-00001-of-00001.msgpack"
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json: tensor 'blocks\.0\.x': expected in flax_model-00001"):
        open_tensors(tmp_path)


def test_pieces_of_a_large_array(torch_files, tensors):
    """Parts of it that lie across the pieces are read without the rest."""
    opened = open_tensors(torch_files.parent / "msgpack_files" / "checkpoint_1000")
    array = opened.arrays["params.blocks.0.attn.qkv.weight"]
    assert len(array.pieces) == 5
    whole = tensors["blocks.0.attn.qkv.weight"]
    for first in range(6):
        for last in range(first, 7):
            for column in range(4):
                index = (slice(first, last), slice(column, 4))
                assert np.array_equal(array.read(index), whole[index])
    assert np.array_equal(opened["opt_state.0.mu.pos_embed"], tensors["pos_embed"])
    assert opened.ignored == dict.fromkeys(["lr", "done", "opt_state.0.count"], "no tensor")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_type_of_safetensors(tmp_path, dtype):
    value = np.arange(1, 5).astype(dtype)
    write_tensors(tmp_path, {"a": value})
    assert open_tensors(tmp_path)["a"].dtype == dtype
    assert np.array_equal(open_tensors(tmp_path)["a"], value)
