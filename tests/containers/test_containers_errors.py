"""One clear error each: the file, the tensor, what was found and what was expected."""

from __future__ import annotations

import json
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from parity.checkpoints import CheckpointError, account, expect_floats, open_tensors, write_tensors
from parity.checkpoints.containers.safetensors_file import INDEX, WEIGHTS
from parity.checkpoints.containers.tree import flatten


def refused(path) -> str:
    """The message, without the directory."""
    with pytest.raises(CheckpointError) as raised:
        open_tensors(path)
    assert str(raised.value).startswith(str(path.parent))
    return str(raised.value).replace(f"{path.parent}/", "")


def safetensors(path, header, data=b"\0" * 24, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (GOOD | {"dtype": "F31"}, "tensor 'a': dtype: got 'F31', expected one of BOOL, U8, I8,"),
        (GOOD | {"shape": [2, 4]}, "tensor 'a': data_offsets: got 24 bytes, expected 32 for F32 [2, 4]"),
        (GOOD | {"shape": [2, -3]}, "tensor 'a': shape: got [2, -3], expected whole numbers from 0 on"),
        (GOOD | {"shape": [2**40, 2**40]}, "tensor 'a': shape: got [1099511627776, 1099511627776], which is larger"),
        (GOOD | {"shape": [1] * 99}, "tensor 'a': shape: got 99 axes, expected at most 32"),
        (GOOD | {"shape": 6}, "tensor 'a': shape: got 6, expected a list"),
        (GOOD | {"data_offsets": [4, 28]}, "tensor 'a': data_offsets: got bytes 4 to 28, expected them to start at 0"),
        (GOOD | {"data_offsets": [24]}, "tensor 'a': data_offsets: got [24], expected the first byte and the end"),
        ({"dtype": "F32"}, "tensor 'a': got ['dtype'], expected dtype, shape and data_offsets"),
        ([], "tensor 'a': got [], expected dtype, shape and data_offsets"),
    ],
)
def test_entries(tmp_path, entry, message):
    assert refused(safetensors(tmp_path / "x.safetensors", {"a": entry})).startswith(f"x.safetensors: {message}")


def test_headers(tmp_path):
    file = tmp_path / "x.safetensors"
    assert refused(file) == "x.safetensors: no such file"
    safetensors(file, {"a": GOOD}, b"\0" * 20)
    assert refused(file) == "x.safetensors: tensor 'a': got 20 bytes of data, expected 24 by the header"
    two = {"a": GOOD, "b": GOOD | {"data_offsets": [12, 36]}}
    safetensors(file, two, b"\0" * 36)
    assert "tensor 'b': data_offsets: got bytes 12 to 36, expected them to start at 24" in refused(file)
    text = json.dumps({"a": GOOD})
    safetensors(file, f"{text[:-1]}, {text[1:]}".encode())
    assert refused(file).endswith("header: tensor 'a' is there twice")
    safetensors(file, {"a": GOOD}, length=2**62)
    assert "got a header of 4611686018427387904 bytes, expected at most " in refused(file)
    for text in (b"", b"{", b"[" * 100_000, b"\xff", b"[]"):
        safetensors(file, text)
        assert "header: " in refused(file)
    file.write_bytes(b"1234")
    assert "expected at most 0" in refused(file)


def test_indices(tmp_path):
    write_tensors(tmp_path, {"a": np.ones(100), "b": np.ones(100)}, shard_bytes=800)
    index = json.loads((tmp_path / INDEX).read_text())
    first, second = index["weight_map"]["a"], index["weight_map"]["b"]

    def with_map(weight_map) -> str:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        return refused(tmp_path / INDEX)

    assert with_map({"a": first, "b": first}) == f"{INDEX}: tensor 'b': expected in {first}, which doesn't have it"
    assert with_map({"a": second, "b": second}) == f"{INDEX}: tensor 'a': expected in {second}, which doesn't have it"
    assert (
        with_map({"a": second, "b": first}) == f"{INDEX}: tensor 'b': found in {second}, expected {first} by the index"
    )
    assert with_map({"a": first, "b": second, "c": first}).startswith(f"{INDEX}: tensor 'c': expected in {first}")
    assert (
        with_map({"a": first, "b": "model-3.safetensors"}) == f"model-3.safetensors: no such file, which {INDEX} names"
    )
    for outside in ("../x.safetensors", "/x.safetensors", "..", "", INDEX, 3, None):
        expected = f"{INDEX}: weight_map: 'a': got {outside!r}, expected the name of a file of tensors beside it"
        assert with_map({"b": first, "a": outside}) == expected
    (tmp_path / second).write_bytes((tmp_path / first).read_bytes())
    assert (
        with_map({"a": first, "b": second}) == f"{INDEX}: tensor 'a': found in {second}, expected {first} by the index"
    )
    (tmp_path / second).write_text("{}")
    assert with_map({"b": second}) == f"{second}: got JSON, expected a file of tensors, as {INDEX} names it"
    assert with_map(3) == f"{INDEX}: weight_map: got 3, expected an index with a weight_map of names to files"


def test_documents_that_are_no_index(tmp_path):
    index = tmp_path / INDEX
    index.write_text('{"hidden_size": 3}')
    expected = "expected an index with a weight_map of names to files"
    assert refused(index) == f"{INDEX}: got the keys ['hidden_size'], {expected}"
    index.write_bytes('{"weight_map": {}}'.encode("utf-16"))
    assert refused(index).startswith(f"{INDEX}: not JSON: UTF-16 text, expected UTF-8")
    index.write_text('{"weight_map": {"a": "x.safet')
    assert refused(index).startswith(f"{INDEX}: not JSON: cut off in line 1")
    with index.open("wb") as file:
        file.truncate(3 * 10**9)
    assert refused(index).startswith(f"{INDEX}: got 3,000,000,000 bytes, expected at most")


def test_pickles(tmp_path, torch_files):
    whole = (torch_files / "weights.pt").read_bytes()
    file = tmp_path / "x.pt"
    file.write_bytes(b"PK" + whole[2:1000])
    assert "x.pt: not a readable zip archive: " in refused(file)
    file.write_bytes(b"not a pickle")
    assert "x.pt: starts with b'not a pi', which is no file of tensors; expected safetensors, what torch" in refused(
        file
    )
    file.write_bytes((torch_files / "weights_legacy.pt").read_bytes()[:300])
    assert "x.pt: " in refused(file)
    with zipfile.ZipFile(torch_files / "weights.pt") as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    assert refused(file) == "x.pt: byteorder: got b'big', expected little"
    with zipfile.ZipFile(torch_files / "weights.pt") as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    assert refused(file).endswith("its storage '0' isn't in the file")


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("notes.txt", "hello")
    expected = (
        "x.npz: a zip archive of ['notes.txt'], expected arrays or tensors; if it holds a file of them, unpack it"
    )
    assert refused(tmp_path / "x.npz").startswith(expected)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", "hello")
        archive.writestr("notes.txt", "hello")
    assert refused(tmp_path / "x.npz").startswith("x.npz: tensor 'a': header: ")
    for name, expected in (
        ("m/archive_format", "x.npz: a program of torch.export, expected weights; save them: "),
        ("model.weights.h5", "x.npz: a model of Keras (.keras), which isn't read"),
    ):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr(name, "hello")
        assert refused(tmp_path / "x.npz").startswith(expected)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.bin", b"", "an empty file; fetch or save it again"),
        (
            "x.bin",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a pointer of Git LFS, not the file itself",
        ),
        ("x.safetensors", b"<!DOCTYPE html><html>", "an HTML or XML page, not weights"),
        ("x.pt", b"\n  <html><body>429", "an HTML or XML page, not weights"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "an HDF5 file (Keras, tf_model.h5), which isn't read; use"),
        ("x", b"GGUF\3\0\0\0", "a GGUF file (llama.cpp)"),
        ("x.onnx", b"\x08\x08\x12\x07pytorch", "an ONNX program"),
        ("x", b"\x08\x08\x12\x07pytorch", "an ONNX program"),
        ("x.npy", b"\x93NUMPY\1\0", "a single array of NumPy, without a name"),
        ("x.tar", b"a" * 257 + b"ustar\0" + b"\0" * 300, "a tar archive; unpack it and name the file in it"),
        ("x.tgz", b"\x1f\x8b\x08" + b"\0" * 20, "a gzip archive; unpack it and name the file in it"),
        ("x.ckpt.index", b"\0" * 50 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a part of a TensorFlow checkpoint"),
        ("x.ckpt.data-00000-of-00001", b"\x3f" * 50, "a part of a TensorFlow checkpoint"),
        ("x.bin", b"Entry not found", "starts with b'Entry no', which is no file of tensors; expected safetensors, "),
        ("x.safetensors", b"Entry not found", "not a readable safetensors file: "),
        ("x.bin", b'{"error": "Repository not found"}', "got the keys ['error'], expected an index with a weight_map"),
    ],
)
def test_files_of_something_else(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(f"{name}: {message}")


def test_a_directory_with_nothing_but_keras_weights(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(CheckpointError, match=r"tf_model\.h5: an HDF5 file .*safetensors"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("name", ["model.msgpack", "checkpoint_1000"])
def test_msgpack_that_is_cut_off_is_named(tmp_path, msgpack_files, name):
    whole = (msgpack_files / name).read_bytes()
    for size in [*range(1, len(whole), 11), len(whole) - 1]:
        (tmp_path / "x").write_bytes(whole[:size])
        assert refused(tmp_path / "x").startswith("x: msgpack: ends too early: got ")
    (tmp_path / "x").write_bytes(whole + b"\0")
    assert refused(tmp_path / "x") == f"x: msgpack: got 1 bytes behind the end, at byte {len(whole)}"


def array(shape: bytes, dtype: bytes, numbers: bytes) -> bytes:
    """A map with one array, as Flax packs it; shape is msgpack already."""
    inner = b"\x93" + shape + bytes([0xA0 + len(dtype)]) + dtype + b"\xc4" + bytes([len(numbers)]) + numbers
    return b"\x81\xa1a\xc7" + bytes([len(inner)]) + b"\1" + inner


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array(b"\x91\2", b"float32", b"\0" * 4), "tensor 'a': got 4 bytes, expected 8 for float32 [2]"),
        (array(b"\x91\2", b"object", b"\0" * 16), "tensor 'a': dtype: got 'object', expected one of bool, float16,"),
        (array(b"\x92\xff\2", b"int8", b"\0" * 2), "tensor 'a': shape: got [-1, 2], expected whole numbers from 0 on"),
        (array(b"\2", b"int8", b"\0" * 2), "tensor 'a': got [2, 'int8', _Binary], expected a shape, a type and bytes"),
        (b"\x81\xa1a\xd4\1\xc0", "tensor 'a': got None, expected a shape, a type and bytes"),
        (b"\x81\xa1a\3", "msgpack: got the keys ['a'], expected tensors"),
        (b"\x82\xa1a\3\xa1a\3", "msgpack: key 'a' is there twice"),
        (b"\x81\xc0\3", "msgpack: got a key that is no text at byte 1"),
        (b"\x81\xa1a\xc1", "msgpack: got byte 0xc1 at 3, which starts no value"),
        (b"\x81\xa1a" + b"\x91" * 99 + b"\3", "msgpack: got more than 32 values within each other"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 9, "msgpack: ends too early: got 17 bytes, expected 18 at least"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff" + b"\xc0" * 9, "msgpack: ends too early: got 17 bytes, expected 42949"),
        (b"\x81\xa1\xff\3", "msgpack: 'utf-8' codec can't decode"),
        (b"\x81\xa1a\x81\xb9__msgpack_chunked_array__\xc3", "tensor 'a': shape: got None, expected a dictionary"),
    ],
)
def test_msgpack(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    assert refused(tmp_path / "x").startswith(f"x: {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "got the keys [], expected tensors"),
        ([3], "got [3], expected tensors"),
        ({"a": {"b": 1}, "a.b": 1}, "'a.b': two entries have this path"),
        ({"a.b": 1, "a": {"b": 1}}, "'a.b': two entries have this path"),
        (None, "got None, expected tensors"),
    ],
)
def test_values_without_tensors_or_with_two_of_one_name(value, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        flatten(value, lambda child: ["a", "tensor"] if child == 1 else None)


def test_values_that_share_their_parts_too_often():
    deep: dict = {"a": 1}
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(ValueError, match=r"got more than 32 values within each other"):
        flatten(deep, lambda child: [] if child == 1 else None)
    laughs: dict = {"a": 1}
    for _ in range(30):
        laughs = {"a": laughs, "b": laughs}
    with pytest.raises(ValueError, match=r"got more entries than a checkpoint has"):
        flatten(laughs, lambda child: [] if child == 1 else None)
    # What holds no tensor is one entry, however much is in it.
    assert flatten({"t": 1, "x": {"a": [0] * 10**6}}, lambda child: [] if child == 1 else None)[1] == {"x": "no tensor"}


def test_a_directory_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: no such file"):
        open_tensors(tmp_path)


def test_whole_numbers_are_no_weights():
    dtypes = {"a": np.dtype(np.float16), "b": np.dtype(ml_dtypes.bfloat16), "c": np.dtype(ml_dtypes.float8_e4m3fn)}
    expect_floats(dtypes, source="x")
    account(dict.fromkeys(dtypes, ()), dict.fromkeys(dtypes, ()), source="x")
    dtypes |= {"d": np.dtype(np.int32), "e": np.dtype(bool), "f": np.dtype(np.complex64)}
    with pytest.raises(CheckpointError) as raised:
        expect_floats(dtypes, source="x")
    lines = ["x: expected floating-point numbers", "d: got int32", "e: got bool", "f: got complex64"]
    assert str(raised.value) == "\n  ".join(lines)
