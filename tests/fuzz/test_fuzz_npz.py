"""Spoiled `.npz` files: archives, headers, and members that are larger than they say."""

from __future__ import annotations

import io
import warnings
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile

import numpy as np
import pytest
from harness import CASES, BrokenError, counted, fuzz, read_case, same
from hypothesis import given
from hypothesis import strategies as st
from mutations import SHAPES, damaged

from parity.checkpoints import CheckpointError, open_tensors

SHARE = {"npz bytes": 0.08, "npz headers": 0.12}
BOMB = 30_000_000


@pytest.fixture(scope="module")
def originals(tensors) -> dict[str, bytes]:
    class Files(dict[str, bytes]):
        __repr__ = object.__repr__

    found = Files()
    for name, save in {"stored": np.savez, "deflated": np.savez_compressed}.items():
        save(file := io.BytesIO(), **tensors)
        found[name] = file.getvalue()
    return found


@fuzz(SHARE["npz bytes"])
@given(data=st.data())
def test_bytes(folder, originals, tensors, data):
    kind = data.draw(st.sampled_from(["stored", "deflated"]))
    (folder / "x.npz").write_bytes(data.draw(damaged(originals[kind])))
    found = read_case("npz bytes", folder / "x.npz")
    if isinstance(found, CheckpointError):
        return
    for name, value in found.items():
        # Deflated members have a checksum that is checked; of stored ones a part may be read without the rest.
        if kind == "deflated" and name in tensors and not same(value, tensors[name]):
            raise BrokenError(f"{name}: other numbers than were written")


def npy(header: str, payload: bytes, version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin1", "replace")
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text + payload


DESCRIPTIONS = (
    *("'<f4'", "'<f4'", "'<f4'", "'>f8'", "'|V2'", "'|b1'", "'<c8'", "'|O'", "'<U4'", "'|S4'", "'<M8[s]'", "'|V3'"),
    *("[('a', '<f4')]", "[('a', '|O')]", "('<f4', (2,))", "'x'", "3", "None", "'f4,f4'", "'<f999999'", "'|V999999999'"),
)
FORMS = (
    *("{'descr': %s, 'fortran_order': %s, 'shape': %s, }",) * 6,
    *(
        "{'descr': %s, 'fortran_order': %s, 'shape': %s, 'x': 1}",
        "{'descr': %s, 'fortran_order': %s}#%s",
        "(%s, %s, %s",
    ),
    *(
        "%s%s%s" + "(" * 3000,
        "%s%s%s" + "-" * 3000 + "1",
        "%s%s%s",
        "[%s, %s, %s]",
        "{'descr': %s, 1: %s, 'shape': %sL, }",
    ),
)


@fuzz(SHARE["npz headers"])
@given(data=st.data())
def test_headers(folder, data):
    shape = data.draw(st.one_of(st.lists(st.integers(0, 5), max_size=3), SHAPES))
    shape = repr(tuple(shape)) if isinstance(shape, list) else repr(shape)
    descr, order = data.draw(st.sampled_from(DESCRIPTIONS)), data.draw(st.sampled_from(["False", "True", "None", "1"]))
    header = data.draw(st.sampled_from(FORMS)) % (descr, order, shape)
    size = data.draw(st.integers(0, 300))
    version = data.draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0"]))
    names = ["a/b.npy", *data.draw(st.sampled_from([[], [], ["a/b.npy"], ["x.txt"], [".npy"], ["../up.npy"]]))]
    method = data.draw(st.sampled_from([ZIP_STORED, ZIP_DEFLATED, ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA]))
    with warnings.catch_warnings(action="ignore"), ZipFile(folder / "x.npz", "w", method) as archive:
        for name in names:
            archive.writestr(name, npy(header, b"\0" * size, version))
    read_case("npz headers", folder / "x.npz", names=["a/b", "x.txt", "../up", "''"])


@pytest.mark.parametrize("method", [ZIP_STORED, ZIP_DEFLATED])
def test_a_member_larger_than_its_header_says_is_not_inflated(folder, method):
    file = folder / "bomb.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
    with ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", npy(header, b"\0" * BOMB))
    found = read_case("bomb", file, names=["tensor 'a'"])
    assert isinstance(found, CheckpointError)
    assert f"got {BOMB + 10 + len(header)} bytes, expected {12 + 10 + len(header)}" in str(found)


def test_a_member_that_is_as_large_as_it_says_is_inflated_when_it_is_asked_for(folder):
    file = folder / "bomb.npz"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({BOMB // 4},), }}"
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(header, b"\0" * BOMB))
        archive.writestr("b.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", b"\0" * 4))
    # `read_case` allows what the header declares, once a tensor is asked for, and nothing before.
    assert read_case("bomb", file)["a"].nbytes == BOMB
    assert file.stat().st_size < BOMB / 500


def test_a_pickle_in_an_array_is_not_read(folder):
    class Harmful:
        def __reduce__(self):
            return exec, (f"open({str(folder / 'ran')!r}, 'w').close()",)

    np.savez(folder / "x.npz", a=np.ones(3), b=np.array([Harmful()], dtype=object))
    with pytest.raises(CheckpointError, match=r"x\.npz: tensor 'b': .*dtype"):
        open_tensors(folder / "x.npz")
    assert not (folder / "ran").exists()
    with np.load(folder / "x.npz", allow_pickle=True) as harmful:
        harmful["b"]
    assert (folder / "ran").exists()


def test_all_cases_ran(record_property):
    record_property("fuzz cases", sum(counted[kind] for kind in SHARE))
    assert all(counted[kind] >= round(CASES * share) for kind, share in SHARE.items())
