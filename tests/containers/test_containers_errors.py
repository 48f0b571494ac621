"""One clear error each: the file, the tensor, what was found and what was expected."""

from __future__ import annotations

import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from parity.checkpoints import CheckpointError, account, expect_floats, open_tensors, write_tensors
from parity.checkpoints.containers.safetensors_file import INDEX, WEIGHTS


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
    assert with_map({"a": first, "b": "model-3.safetensors"}) == "model-3.safetensors: no such file"
    for outside in ("../x.safetensors", "/x.safetensors", "..", "", INDEX, 3, None):
        assert with_map({"a": outside}).startswith(f"{INDEX}: expected a")
    (tmp_path / second).write_bytes((tmp_path / first).read_bytes())
    assert (
        with_map({"a": first, "b": second}) == f"{INDEX}: tensor 'a': found in {second}, expected {first} by the index"
    )


def test_pickles(tmp_path, torch_files):
    whole = (torch_files / "weights.pt").read_bytes()
    file = tmp_path / "x.pt"
    file.write_bytes(b"PK" + whole[2:1000])
    assert "x.pt: not a readable zip archive: " in refused(file)
    file.write_bytes(b"not a pickle")
    assert "x.pt: starts with b'not a pi', expected a zip archive or a file that torch.save wrote" in refused(file)
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
    assert refused(tmp_path / "x.npz") == "x.npz: got 'notes.txt', expected .npy files alone"


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
