"""Spoiled files of `torch.save`, in both layouts, and pickles made to run code."""

from __future__ import annotations

import io
import pickle
import shutil
import struct
from typing import Any, ClassVar
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
from harness import CASES, BrokenError, counted, fuzz, read_case, same
from hypothesis import given
from hypothesis import strategies as st
from mutations import SIZES, damaged

from parity.checkpoints import CheckpointError, open_tensors
from parity.checkpoints.containers.pickle_file import LEGACY_MAGIC

SHARE = {"zip bytes": 0.06, "legacy bytes": 0.06, "pickle bytes": 0.08, "views": 0.1, "code": 0.1}
FILES = ("weights.pt", "training.pt", "weights_legacy.pt", "training_legacy.pt")


@pytest.fixture(scope="module")
def originals(torch_files) -> dict[str, bytes]:
    class Files(dict[str, bytes]):
        __repr__ = object.__repr__  # Hypothesis would print them all with an example that fails

    return Files({name: (torch_files / name).read_bytes() for name in FILES})


def rezipped(data: bytes, replaced: dict[str, bytes], method: int = ZIP_STORED) -> bytes:
    """The archive with other members and right checksums."""
    result = io.BytesIO()
    with ZipFile(io.BytesIO(data)) as old, ZipFile(result, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name.partition("/")[2], old.read(name)))
    return result.getvalue()


def pickle_in(data: bytes) -> bytes:
    with ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


@fuzz(SHARE["zip bytes"])
@given(data=st.data())
def test_zip_bytes(folder, originals, tensors, data):
    (folder / "x.pt").write_bytes(data.draw(damaged(originals[data.draw(st.sampled_from(FILES[:2]))])))
    found = read_case("zip bytes", folder / "x.pt")
    if not isinstance(found, CheckpointError):
        # The pickle has a checksum: names, shapes and types are those that were written.
        weights = {name.removeprefix("model.module."): value for name, value in found.items() if "model.mod" in name}
        found = weights or found
        assert set(found) == set(tensors)
        assert all(value.dtype == tensors[name].dtype for name, value in found.items())
        assert all(value.shape == tensors[name].shape for name, value in found.items())


@fuzz(SHARE["legacy bytes"])
@given(data=st.data())
def test_legacy_bytes(folder, originals, data):
    (folder / "x.pt").write_bytes(data.draw(damaged(originals[data.draw(st.sampled_from(FILES[2:]))])))
    read_case("legacy bytes", folder / "x.pt")


@fuzz(SHARE["pickle bytes"])
@given(data=st.data())
def test_pickle_bytes(folder, originals, tensors, data):
    """The checksum is that of the spoiled pickle."""
    original = originals[data.draw(st.sampled_from(FILES[:2]))]
    method = data.draw(st.sampled_from([ZIP_STORED, ZIP_STORED, ZIP_STORED, ZIP_DEFLATED]))
    (folder / "x.pt").write_bytes(rezipped(original, {"data.pkl": data.draw(damaged(pickle_in(original)))}, method))
    read_case("pickle bytes", folder / "x.pt")


def test_a_pickle_that_is_a_bomb_is_not_inflated(folder, originals):
    bomb = rezipped(originals["weights.pt"], {"data.pkl": b"\x80\x02" + b"N" * 30_000_000 + b"."}, ZIP_DEFLATED)
    (folder / "x.pt").write_bytes(bomb)
    assert isinstance(read_case("bomb", folder / "x.pt", names=["data.pkl"]), CheckpointError)


class Global:
    """Pickled as a name in a module."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickled as a name that is applied to arguments."""

    def __init__(self, function: Global, *arguments: object):
        self.function, self.arguments = function, arguments


class Storage:
    """Pickled as a reference to a storage."""

    def __init__(self, *identity: object):
        self.identity = identity


class Pickler(pickle._Pickler):
    """Writes the stand-ins above as what they stand for; nothing of what they name has to exist."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        return value.identity if isinstance(value, Storage) else None

    def save_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)

    dispatch[Global] = save_name
    dispatch[Call] = save_call


def pickled(value: object) -> bytes:
    result = io.BytesIO()
    Pickler(result, 2).dump(value)
    return result.getvalue()


def as_file(value: object, originals: dict[str, bytes], *, legacy: bool) -> bytes:
    """A file of either layout, with a storage `0` of 12 float32, its own indices."""
    middle = value if isinstance(value, bytes) else pickled(value)
    if not legacy:
        return rezipped(originals["weights.pt"], {"data.pkl": middle, "data/0": struct.pack("<12f", *range(12))})
    system = {"protocol_version": 1001, "little_endian": True}
    start = LEGACY_MAGIC + pickled(1001) + pickled(system) + middle + pickled(["0"])
    return start + struct.pack("<q12f", 12, *range(12))


# What each field of a view may be instead of what it should be.
WRONG = {
    "kind": st.sampled_from(["HalfStorage", "UntypedStorage", "LongStorage", "QInt8Storage", "x"]),
    "key": st.sampled_from(["99", "../0", "", 0, None]),
    "numel": SIZES,
    "offset": st.one_of(st.integers(8, 13), SIZES),
    "shape": st.one_of(st.lists(SIZES, max_size=4).map(tuple), SIZES),
    "strides": st.one_of(st.lists(SIZES, max_size=4).map(tuple), SIZES),
    "function": st.sampled_from(["_rebuild_tensor", "_rebuild_tensor_v3", "_rebuild_parameter"]),
    "part": st.sampled_from([("1", 12, 1), ("1", -1, 2), ("1", 2**62, 1), (), 3]),
}


@st.composite
def views(draw: st.DrawFn) -> dict[str, Any]:
    """A view of a storage of 12 numbers, which may leave it, and may have something else in one field."""
    axes = draw(st.integers(0, 3))
    sides = st.lists(st.integers(0, 4), min_size=axes, max_size=axes).map(tuple)
    view = {
        "kind": "FloatStorage",
        "key": "0",
        "numel": 12,
        "offset": draw(st.integers(0, 4)),
        "shape": draw(sides),
        "strides": draw(sides),
        "function": "_rebuild_tensor_v2",
        "part": draw(st.sampled_from([None, None, ("1", 3, 4), ("1", 2, 10)])),
        "wrapped": draw(st.booleans()),
    }
    if draw(st.booleans()):
        field = draw(st.sampled_from(sorted(WRONG)))
        view[field] = draw(WRONG[field])
    return view


@fuzz(SHARE["views"])
@given(data=views(), legacy=st.booleans())
def test_views(folder, originals, data, legacy):
    """A view that doesn't lie in its storage is refused, and one that does gives numbers of it."""
    storage = Storage("storage", Global("torch", data["kind"]), data["key"], "cpu", data["numel"], data["part"])
    rest = (Global("torch", "float16"), None) if data["function"].endswith("3") else ()
    view = Call(
        Global("torch._utils", data["function"]),
        storage,
        data["offset"],
        data["shape"],
        data["strides"],
        False,
        {},
        *rest,
    )
    if data["wrapped"]:
        view = Call(Global("torch._utils", "_rebuild_parameter"), view, True, {})
    (folder / "x.pt").write_bytes(as_file({"the.tensor": view}, originals, legacy=legacy))
    found = read_case("views", folder / "x.pt", names=["the.tensor", "storage", "refused"])
    if isinstance(found, CheckpointError) or data["kind"] != "FloatStorage" or rest:
        return
    first = data["part"][1] if legacy and data["part"] else 0
    value = found["the.tensor"]
    assert value.shape == tuple(data["shape"])
    # The storage holds its own indices.
    steps = zip(np.indices(value.shape), data["strides"], strict=True)
    assert np.array_equal(
        value, sum((axis * step for axis, step in steps), np.full(value.shape, first + data["offset"]))
    )


MODULES = (
    *("os system", "posix system", "nt system", "subprocess Popen", "subprocess call", "os popen", "os execv"),
    *("builtins eval", "builtins exec", "builtins compile", "builtins __import__", "builtins getattr", "builtins open"),
    *("__builtin__ eval", "__builtin__ apply", "runpy _run_code", "runpy run_path", "code InteractiveInterpreter"),
    *("torch load", "torch.hub load", "torch._utils _rebuild_qtensor", "torch.storage _load_from_bytes", "numpy load"),
    *("pickle loads", "_pickle loads", "operator attrgetter", "functools partial", "types FunctionType", "sys exit"),
    *("numpy.core.multiarray _reconstruct", "numpy.testing._private.utils runstring", "shutil rmtree", "ctypes CDLL"),
    *("collections OrderedDict.__reduce__", "torch FloatStorage.__class__", "argparse FileType", "argparse Namespace"),
    *("_codecs encode", "torch._utils _rebuild_tensor_v2", "collections OrderedDict", "pty spawn", "importlib reload"),
)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


# Operations that have no arguments of their own, then ones whose arguments lie.
NOISE = (
    *(bytes([opcode]) for opcode in b"(012tldueas}])bRoNQ\x81\x85\x86\x87\x88\x8f\x90\x91\x94\x97"),
    *(b"K\x07", b"h\x00", b"q\x00", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"X\xff\xff\xff\x7f"),
    *(b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"\x96" + b"\x00" * 7 + b"\x10", b"\x95" + b"\xff" * 8),
    *(b"I9" + b"9" * 5000 + b"\n", b"2\x86" * 200, b"N\x85" * 3000, b"]" * 300),
)


def program(name: str, argument: str) -> st.SearchStrategy[bytes]:
    """Operations of a pickle, well formed or not, that make a name do something with an argument."""
    module, _, attribute = name.partition(" ")
    fetch = f"c{module}\n{attribute}\n".encode()
    stack_fetch = text(module) + text(attribute) + b"\x93"
    arguments = b"(" + text(argument) + b"t"
    ways = (
        fetch + arguments + b"R",
        stack_fetch + arguments + b"R",
        fetch + arguments + b"\x81",
        fetch + arguments + b"}\x92",
        b"(" + text(argument) + f"i{module}\n{attribute}\n".encode(),
        b"(" + fetch + text(argument) + b"o",
        fetch + b")R}" + text("__setstate__") + fetch + b"sb",
        fetch + text(argument) + b"b",
        text(argument) + b"Q" + fetch + arguments + b"R",
        f"P{argument}\n".encode() + fetch + arguments + b"R",
        fetch + b"\x94" + b"\x82\x01" + arguments + b"R",
    )
    pieces = st.lists(st.one_of(st.sampled_from(ways), st.sampled_from(NOISE)), max_size=6)
    whole = st.tuples(pieces, st.sampled_from(ways), pieces).map(
        lambda parts: b"".join((*parts[0], parts[1], *parts[2]))
    )
    ends = st.sampled_from([b".", b"", b"s.", b"}.", b"\x85.", b"."])
    starts = st.sampled_from([b"\x80\x02", b"\x80\x04", b"\x80\x02}X\x01\x00\x00\x00a", b""])
    return st.tuples(starts, whole, ends).map(b"".join)


@fuzz(SHARE["code"])
@given(data=st.data())
def test_code(folder, originals, data):
    ran = folder / "ran"
    name = data.draw(st.sampled_from(MODULES))
    argument = data.draw(st.sampled_from([f"touch {ran}", f"open({str(ran)!r}, 'w')", str(ran)]))
    spoiled = data.draw(program(name, argument))
    (folder / "x.pt").write_bytes(as_file(spoiled, originals, legacy=data.draw(st.booleans())))
    found = read_case("code", folder / "x.pt")
    if ran.exists():
        raise BrokenError(f"{name} ran")
    assert isinstance(found, CheckpointError), "there are no weights in it"


@pytest.mark.parametrize(
    "spoiled",
    {
        "a key whose hash takes 2**200 steps": b"}N" + b"2\x86" * 200 + b"K\x01s.",
        "a value of 2**200 parts": b"}" + text("a") + b"N" + b"2\x86" * 200 + b"s.",
        "deep lists": b"}" + text("model") + b"]" * 100_000 + b"a" * 99_999 + b"s.",
        "deep dictionaries": (b"}" + text("model")) * 20_000 + b"}" + b"s" * 20_000 + b".",
        "a dictionary in itself": b"}q\0" + text("model") + b"h\0s.",
        "deep parameters": b"ctorch._utils\n_rebuild_parameter\nq\0" + b"h\0" * 5000 + b")" + b"R\x85" * 5000 + b".",
    }.values(),
)
def test_pickles_without_an_end(folder, originals, spoiled):
    (folder / "x.pt").write_bytes(as_file(b"\x80\x02" + spoiled, originals, legacy=True))
    assert isinstance(read_case("endless", folder / "x.pt"), CheckpointError)


def view_of_12(function: str = "_rebuild_tensor_v2") -> Call:
    """A tensor of the storage that `as_file` adds, by some function of torch."""
    storage = Storage("storage", Global("torch", "FloatStorage"), "0", "cpu", 12)
    return Call(Global("torch._utils", function), storage, 2, (2, 3), (1, 4), False, {})


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "torch._utils _rebuild_tensor_v2"])
def test_any_name_may_be_beside_the_weights_and_none_runs(tmp_path, originals, name, legacy):
    harmful = Call(Global(*name.split(" ")), f"touch {tmp_path / 'ran'}")
    value = {"weights": {"a": view_of_12()}, "args": harmful, "more": [Global(*name.split(" "))]}
    (tmp_path / "x.pt").write_bytes(as_file(value, originals, legacy=legacy))
    opened = open_tensors(tmp_path / "x.pt")
    assert opened["weights.a"].tolist() == [[2, 6, 10], [3, 7, 11]]
    assert opened.ignored.keys() == {"args", "more"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(("torch._utils", "collections O"))])
def test_weights_that_need_a_name_are_refused_by_it(tmp_path, originals, name):
    value = {"weights": {"a": Call(Global(*name.split(" ")), view_of_12(), f"touch {tmp_path / 'ran'}")}}
    (tmp_path / "x.pt").write_bytes(as_file(value, originals, legacy=False))
    with pytest.raises(CheckpointError) as raised:
        open_tensors(tmp_path / "x.pt")
    reason = f"weights.a: made of tensors by '{name.replace(' ', '.')}', which isn't run"
    assert str(raised.value).startswith(f"{tmp_path / 'x.pt'}: got {reason}")
    assert not (tmp_path / "ran").exists()


def test_the_pickles_here_do_run_where_nobody_looks(tmp_path):
    """Which the tests above would otherwise show nothing of."""
    ran = tmp_path / "ran"
    pickle.loads(pickled(Call(Global("posix", "system"), f"touch {ran}")))
    assert ran.exists()


def test_stand_ins_make_the_files_of_torch(tmp_path, originals):
    (tmp_path / "x.pt").write_bytes(as_file({"a": view_of_12()}, originals, legacy=True))
    assert open_tensors(tmp_path / "x.pt")["a"].tolist() == [[2, 6, 10], [3, 7, 11]]
    shutil.copyfile(tmp_path / "x.pt", tmp_path / "y.pt")
    assert same(open_tensors(tmp_path / "y.pt")["a"], open_tensors(tmp_path / "x.pt")["a"])


def test_all_cases_ran(record_property):
    record_property("fuzz cases", sum(counted[kind] for kind in SHARE))
    assert all(counted[kind] >= round(CASES * share) for kind, share in SHARE.items())
