"""Spoiled `.safetensors` files, shards and indices, each held against the library where it reads them as well."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
from harness import CASES, BrokenError, counted, fuzz, read_case, same
from hypothesis import given
from hypothesis import strategies as st
from mutations import JUNK, SHAPES, SIZES, damaged, damaged_json

from parity.checkpoints import CheckpointError, write_tensors
from parity.checkpoints.containers.safetensors_file import DTYPES, INDEX, WEIGHTS

SHARE = {"bytes": 0.1, "header": 0.15, "index": 0.1}
# The library takes the second of two tensors of one name, and types that NumPy hasn't.
STRICTER = ("twice", "dtype: got", "axes, expected at most", "larger than any file")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tensors) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    write_tensors(folder, tensors)
    return (folder / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def shards(folder, tensors) -> dict:
    (folder / "shards").mkdir()
    write_tensors(folder / "shards", tensors, shard_bytes=100)
    return json.loads((folder / "shards" / INDEX).read_text())


def against_the_library(data: bytes, found: dict[str, np.ndarray] | CheckpointError) -> None:
    """What we read it reads, too, to the bit; and we refuse what it reads for a few reasons alone."""
    try:
        theirs = dict(safetensors.deserialize(data))
    except Exception as error:
        if not isinstance(found, CheckpointError):
            raise BrokenError(f"the library refuses it: {error}") from error
        return
    if isinstance(found, CheckpointError):
        assert any(reason in str(found) for reason in STRICTER), f"the library reads it: {found}"
        return
    assert set(found) == set(theirs)
    for name, value in found.items():
        assert value.tobytes() == bytes(theirs[name]["data"])
        assert list(value.shape) == theirs[name]["shape"]


@fuzz(SHARE["bytes"])
@given(data=st.data())
def test_bytes(folder, whole, data):
    spoiled = data.draw(damaged(whole))
    (folder / "x.safetensors").write_bytes(spoiled)
    against_the_library(spoiled, read_case("bytes", folder / "x.safetensors"))


@st.composite
def entries(draw: st.DrawFn, header: dict) -> tuple[list[tuple[str, object]], list[str]]:
    """A header as pairs, one of which is spoiled, and the names of which an error has to give one."""
    names = sorted(set(header) - {"__metadata__"})
    name = draw(st.sampled_from(names))
    entry = dict(header[name])
    pairs = [(key, value) for key, value in header.items() if key != name]
    match draw(st.sampled_from(["shape", "dtype", "offsets", "drop", "junk", "twice", "missing", "extra", "metadata"])):
        case "shape":
            entry["shape"] = draw(SHAPES)
        case "dtype":
            entry["dtype"] = draw(st.one_of(st.sampled_from([*DTYPES, "F4", "F6_E2M3", "f32"]), JUNK))
        case "offsets":
            first, last = entry["data_offsets"]
            shift = draw(st.integers(-20, 20))
            choices = [first + shift, last + shift], [last, first], [first, last + shift], [0, last - first]
            entry["data_offsets"] = draw(st.one_of(st.sampled_from(choices), st.lists(SIZES, max_size=3), JUNK))
        case "drop":
            entry.pop(draw(st.sampled_from(sorted(entry))))
        case "junk":
            return [*pairs, (name, draw(JUNK))], names
        case "twice":
            pairs.append((name, entry))
        case "missing":
            return pairs, names
        case "extra":
            size = draw(st.integers(0, 8))
            pairs.append(("extra", {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}))
        case _:
            return [*pairs, (name, entry), ("__metadata__", draw(JUNK))], ["metadata"]
    return [*pairs, (name, entry)], [*names, "extra"]


@fuzz(SHARE["header"])
@given(data=st.data())
def test_headers(folder, whole, data):
    length = int.from_bytes(whole[:8], "little")
    pairs, names = data.draw(entries(json.loads(whole[8 : 8 + length])))
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    spoiled = len(text).to_bytes(8, "little") + text.encode() + whole[8 + length :]
    (folder / "x.safetensors").write_bytes(spoiled)
    against_the_library(spoiled, read_case("header", folder / "x.safetensors", names=names))


@fuzz(SHARE["index"])
@given(data=st.data())
def test_indices(folder, shards, tensors, data):
    weight_map, files = dict(shards["weight_map"]), sorted(set(shards["weight_map"].values()))
    name = data.draw(st.sampled_from(sorted(weight_map)))
    names = [name, "index.json"]
    index: object = {**shards, "weight_map": weight_map}
    match data.draw(st.sampled_from(["elsewhere", "missing", "extra", "outside", "json", "bytes"])):
        case "elsewhere":
            weight_map[name] = data.draw(st.sampled_from([*files, "model-00009-of-00009.safetensors", ""]))
            names = [name, "index.json", "no such file"]
        case "missing":
            del weight_map[name]
        case "extra":
            weight_map["extra"] = data.draw(st.sampled_from(files))
            names = ["extra"]
        case "outside":
            weight_map[name] = data.draw(st.sampled_from(["../x.safetensors", "/etc/passwd", ".", "..", INDEX]))
        case "json":
            index = data.draw(damaged_json(index))
            names = ["index.json", "safetensors"]
    text = json.dumps(index).encode()
    if data.draw(st.integers(0, 4)) == 0:
        text, names = data.draw(damaged(text)), None
    (folder / "shards" / INDEX).write_bytes(text)
    found = read_case("index", folder / "shards" / INDEX, names=names)
    if not isinstance(found, CheckpointError):
        assert all(same(value, tensors[key]) for key, value in found.items())
        # An index may leave out all tensors of a shard; that some are missing is then for the model to say.
        assert set(found) <= set(tensors)


def test_all_cases_ran(record_property):
    expected = round(CASES * SHARE["bytes"]) + round(CASES * SHARE["header"]) + round(CASES * SHARE["index"])
    record_property("fuzz cases", sum(counted[kind] for kind in SHARE))
    assert sum(counted[kind] for kind in SHARE) >= expected
