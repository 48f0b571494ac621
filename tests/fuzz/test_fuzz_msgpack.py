"""Spoiled files of Flax: bytes, sizes that lie, arrays that aren't as large as they say, and values without an end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import CASES, BrokenError, counted, fuzz, read_case, same
from hypothesis import given
from hypothesis import strategies as st
from mutations import JUNK, SHAPES, damaged

from parity.checkpoints import CheckpointError, open_tensors

SHARE = {"msgpack bytes": 0.1, "msgpack arrays": 0.1}
FILES = ("model.msgpack", "checkpoint_1000")


@pytest.fixture(scope="module")
def originals(torch_files) -> dict[str, bytes]:
    class Files(dict[str, bytes]):
        __repr__ = object.__repr__  # Hypothesis would print them all with an example that fails

    return Files({name: (torch_files.parent / "msgpack_files" / name).read_bytes() for name in FILES})


@fuzz(SHARE["msgpack bytes"])
@given(data=st.data())
def test_bytes(folder, originals, data):
    (folder / "x.msgpack").write_bytes(data.draw(damaged(originals[data.draw(st.sampled_from(FILES))])))
    read_case("msgpack bytes", folder / "x.msgpack")


class Ext:
    """Packed as an extension of a code."""

    def __init__(self, code: int, content: bytes):
        self.code, self.content = code, content


def packed(value: Any) -> bytes:
    """Msgpack of plain values, in the longest form of each."""
    match value:
        case None | bool():
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case int() if -(2**63) <= value < 2**63:
            return b"\xd3" + struct.pack(">q", value)
        case int() | float():
            return b"\xcb" + struct.pack(">d", float(value))
        case str():
            return b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case Ext():
            return b"\xc9" + struct.pack(">Ib", len(value.content), value.code) + value.content
        case list() | tuple():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(packed, value))
    pairs = (packed(key) + packed(child) for key, child in value.items())
    return b"\xdf" + struct.pack(">I", len(value)) + b"".join(pairs)


def array_of(value: np.ndarray, **wrong: Any) -> Ext:
    """An array as Flax packs it, with something else in a field."""
    fields = {"code": 1, "shape": list(value.shape), "dtype": value.dtype.name, "numbers": value.tobytes()} | wrong
    return Ext(fields["code"], packed([fields["shape"], fields["dtype"], fields["numbers"]]))


def pieces_of(value: np.ndarray, size: int, **wrong: Any) -> dict[str, Any]:
    """An array in flat pieces, as Flax packs a large one."""
    flat = value.reshape(-1)
    pieces = [array_of(flat[start : start + size]) for start in range(0, flat.size, size)]
    chunks, shape = ({str(place): child for place, child in enumerate(of)} for of in (pieces, value.shape))
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks} | wrong


WRONG = {
    "code": st.sampled_from([0, 2, 3, 4, -1]),
    "shape": SHAPES,
    "dtype": st.sampled_from(["float64", "bfloat16", "V2", "object", "str", "<f4", "f4,f4", "", "bool", 3, None]),
    "numbers": st.one_of(st.binary(max_size=60), st.sampled_from(["", None, 3, [1]])),
}


@fuzz(SHARE["msgpack arrays"])
@given(data=st.data())
def test_arrays(folder, data):
    """What is refused names the tensor; what isn't has the numbers that were packed."""
    value = np.arange(12, dtype=np.float32).reshape(data.draw(st.sampled_from([(12,), (3, 4), (2, 3, 2), (12, 1)])))
    whole: dict[str, Any]
    spoiled = data.draw(st.booleans())
    if data.draw(st.booleans()):
        field = data.draw(st.sampled_from(sorted(WRONG)))
        described: Any = array_of(value, **({field: data.draw(WRONG[field])} if spoiled else {}))
    else:
        fields = {"shape": SHAPES, "chunks": JUNK, "__msgpack_chunked_array__": st.sampled_from([False, None, 1])}
        field = data.draw(st.sampled_from(sorted(fields)))
        size = data.draw(st.integers(1, 13))
        described = pieces_of(value, size, **({field: data.draw(fields[field])} if spoiled else {}))
    whole = {"params": {"the": {"tensor": described}}, "step": 3}
    (folder / "x.msgpack").write_bytes(packed(whole))
    found = read_case("msgpack arrays", folder / "x.msgpack", names=["the.tensor", "expected tensors"])
    if not spoiled and not same(found["params.the.tensor"], value):
        raise BrokenError(f"got {found}")


@pytest.mark.parametrize(
    "spoiled",
    {
        "deep lists": b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0",
        "deep maps": b"\x81\xa1a" * 100_000 + b"\xc0",
        "a list of 2**32 values": b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 1000,
        "a map of 2**32 values": b"\xdf\xff\xff\xff\xff\xa1a\xc0",
        "text of 4 GB": b"\x81\xdb\xff\xff\xff\xff",
        "bytes of 4 GB": b"\x81\xa1a\xc6\xff\xff\xff\xff",
        "an extension of 4 GB": b"\x81\xa1a\xc9\xff\xff\xff\xff\1",
        "nothing but nulls": b"\x81\xa1a\xdd\0\7\xa1\x20" + b"\xc0" * 500_000,
    }.values(),
)
def test_values_without_an_end(folder, spoiled):
    (folder / "x.msgpack").write_bytes(spoiled)
    assert isinstance(read_case("endless", folder / "x.msgpack"), CheckpointError)


def test_what_is_packed_here_is_what_flax_packs(folder: Path, originals, tensors):
    """The model of the samples, packed in longer forms, has the same numbers."""
    (folder / "y.msgpack").write_bytes(originals["model.msgpack"])
    theirs = open_tensors(folder / "y.msgpack")
    nested: dict[str, Any] = {}
    for name, value in tensors.items():
        nested[name] = array_of(value) if value.size < 6 else pieces_of(value, 5)
    (folder / "x.msgpack").write_bytes(packed(nested))
    ours = open_tensors(folder / "x.msgpack")
    assert ours.keys() == theirs.keys()
    assert all(same(ours[name], theirs[name]) for name in theirs)


def test_all_cases_ran(record_property):
    record_property("fuzz cases", sum(counted[kind] for kind in SHARE))
    assert all(counted[kind] >= round(CASES * share) for kind, share in SHARE.items())
