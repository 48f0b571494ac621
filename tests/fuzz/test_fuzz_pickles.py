"""Spoiled pickles with more than a dictionary of tensors: whole modules, TorchScript archives, arrays of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import CASES, BrokenError, counted, fuzz, read_case, same
from hypothesis import given
from hypothesis import strategies as st
from mutations import JUNK, SHAPES, damaged
from test_fuzz_torch import Call, Global, Pickler, Storage, as_file, pickle_in, pickled, rezipped, view_of_12

from parity.checkpoints import CheckpointError, open_tensors
from parity.checkpoints.containers.pickle_file import LEGACY_MAGIC

SHARE = {"archives": 0.06, "archived pickles": 0.08, "plain pickles": 0.06, "objects": 0.1, "arrays": 0.1}
ARCHIVES = ("module.pt", "torchscript.pt")
PICKLES = ("arrays_2.pkl", "arrays_5.pkl", "tensors.pkl")


@pytest.fixture(scope="module")
def originals(torch_files) -> dict[str, bytes]:
    class Files(dict[str, bytes]):
        __repr__ = object.__repr__

    return Files({name: (torch_files / name).read_bytes() for name in (*ARCHIVES, *PICKLES, "weights.pt")})


@fuzz(SHARE["archives"])
@given(data=st.data())
def test_archives(folder, originals, data):
    (folder / "x.pt").write_bytes(data.draw(damaged(originals[data.draw(st.sampled_from(ARCHIVES))])))
    read_case("archives", folder / "x.pt")


@fuzz(SHARE["archived pickles"])
@given(data=st.data())
def test_archived_pickles(folder, originals, data):
    """The checksum is that of the spoiled pickle."""
    original = originals[data.draw(st.sampled_from(ARCHIVES))]
    (folder / "x.pt").write_bytes(rezipped(original, {"data.pkl": data.draw(damaged(pickle_in(original)))}))
    read_case("archived pickles", folder / "x.pt")


@fuzz(SHARE["plain pickles"])
@given(data=st.data())
def test_plain_pickles(folder, originals, data):
    (folder / "x.pkl").write_bytes(data.draw(damaged(originals[data.draw(st.sampled_from(PICKLES))])))
    read_case("plain pickles", folder / "x.pkl")


class Object(Call):
    """Pickled as a name that is applied to arguments, and a state that it is given."""

    def __init__(self, function: Global, *arguments: object, state: object = None):
        super().__init__(function, *arguments)
        self.state = state


def _save_object(pickler: Any, value: Object) -> None:
    pickler.save_call(value)
    pickler.save(value.state)
    pickler.write(b"b")


Pickler.dispatch[Object] = _save_object

MODULE = Global("torch.nn.modules.container", "Sequential")
FIELDS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "other")


def module(**fields: Any) -> Object:
    """A module with one parameter, one buffer of each kind, and whatever is given."""
    state = {
        "_parameters": {"weight": view_of_12(), "bias": None},
        "_buffers": {"mean": view_of_12(), "mask": view_of_12()},
        "_modules": {},
        "_non_persistent_buffers_set": Call(Global("builtins", "set"), ["mask"]),
        "training": True,
    }
    return Object(MODULE, state=state | fields)


@st.composite
def modules(draw: st.DrawFn, depth: int = 2) -> tuple[Object, list[str], bool]:
    """A module of modules, the names of its `state_dict`, and whether one of its fields isn't what it should be."""
    names, children, is_spoiled = ["weight", "mean"], {}, False
    for place in range(draw(st.integers(0, 2)) if depth else 0):
        child, below, is_child_spoiled = draw(modules(depth - 1))
        children[str(place)] = child
        names += [f"{place}.{name}" for name in below]
        is_spoiled |= is_child_spoiled
    fields: dict[str, Any] = {"_modules": children}
    if draw(st.integers(0, 3)) == 0:
        is_spoiled = True
        fields[draw(st.sampled_from(FIELDS))] = draw(st.one_of(JUNK, st.just(Call(MODULE, view_of_12()))))
    return module(**fields), names, is_spoiled


@fuzz(SHARE["objects"])
@given(data=modules(), legacy=st.booleans(), above=st.sampled_from(["", "ema", "attributes", "slots"]))
def test_objects(folder, originals, data, legacy, above):
    """A module that is sound has the names of its `state_dict`, wherever it is."""
    value, names, is_spoiled = data
    around = {
        "": value,
        "ema": {"ema": value},
        "attributes": Object(Global("x", "Average"), state={"ema": value, "decay": 0.9}),
        "slots": Object(Global("x", "Average"), state=(None, {"ema": value})),
    }
    (folder / "x.pt").write_bytes(as_file(around[above], originals, legacy=legacy))
    found = read_case("objects", folder / "x.pt")
    prefix = "ema." if above else ""
    if is_spoiled:
        return
    if isinstance(found, CheckpointError) or list(found) != [f"{prefix}{name}" for name in names]:
        raise BrokenError(f"expected {names}, got {found}")
    assert all(value.tolist() == [[2, 6, 10], [3, 7, 11]] for value in found.values())


DTYPES = st.sampled_from(
    ["f4", "f8", "b1", "i8", "V2", "O", "O8", "U4", "S4", "M8", "f4,f4", "(9999,)f4", "f99", "x", "", 3, None]
)
CONTENTS = st.one_of(
    st.binary(max_size=60), st.text(max_size=20), st.sampled_from([None, 3, [1], Call(Global("_codecs", "encode"))])
)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Object | Call, np.ndarray | None]:
    """An array as NumPy pickles it, and the array; None with something else in a field."""
    value = np.arange(12, dtype="<f4").reshape(draw(st.sampled_from([(12,), (3, 4), (2, 3, 2)])))
    order = draw(st.sampled_from("CF"))
    fields = {"dtype": "f4", "state": (3, "<", None, None, None, -1, -1, 0), "shape": value.shape}
    fields |= {"content": value.tobytes(order), "order": order}
    if is_spoiled := draw(st.booleans()):
        field = draw(st.sampled_from(sorted(fields)))
        shapes = st.one_of(SHAPES.map(lambda shape: tuple(shape) if isinstance(shape, list) else shape), JUNK)
        wrong = {"dtype": DTYPES, "content": CONTENTS, "shape": shapes}.get(field, JUNK)
        fields[field] = draw(wrong)
    content = fields["content"]
    if isinstance(content, bytes) and draw(st.booleans()):
        content = Call(Global("_codecs", "encode"), content.decode("latin1"), "latin1")
    dtype = Object(Global("numpy", "dtype"), fields["dtype"], False, True, state=fields["state"])
    core = draw(st.sampled_from(["core", "_core"]))
    if draw(st.booleans()):
        call = Call(Global(f"numpy.{core}.numeric", "_frombuffer"), content, dtype, fields["shape"], fields["order"])
    else:
        state = (1, fields["shape"], dtype, fields["order"] == "F", content)
        call = Object(Global(f"numpy.{core}.multiarray", "_reconstruct"), Global("numpy", "ndarray"), (0,), state=state)
    return call, None if is_spoiled else value


@fuzz(SHARE["arrays"])
@given(data=arrays())
def test_arrays(folder, data):
    described, value = data
    (folder / "x.pkl").write_bytes(pickled({"model": {"the.tensor": described}}))
    found = read_case("arrays", folder / "x.pkl", names=["the.tensor", "expected tensors"])
    if value is not None and (isinstance(found, CheckpointError) or not same(found["model.the.tensor"], value)):
        raise BrokenError(f"expected {value}, got {found}")


@pytest.mark.parametrize(
    "spoiled",
    {
        "a module in itself": module(_modules={"a": module()}),
        "an object in its attributes": Object(Global("x", "y"), state={"model": {"w": view_of_12()}}),
    }.values(),
)
def test_objects_in_themselves(folder, originals, spoiled):
    """Each tensor once, and the way back is listed."""
    state = spoiled.state["_modules"]["a"].state["_modules"] if "_modules" in spoiled.state else spoiled.state
    state["back"] = spoiled
    (folder / "x.pt").write_bytes(as_file(Cyclic(spoiled), originals, legacy=True))
    opened = open_tensors(folder / "x.pt")
    assert list(opened) == (["weight", "mean", "a.weight", "a.mean"] if "_modules" in spoiled.state else ["model.w"])
    assert any(name.endswith("back") and reason.startswith("in itself") for name, reason in opened.ignored.items())


class Cyclic:
    """Pickled as an object that may be in its own state: it is remembered before its state is written."""

    def __init__(self, value: Object):
        self.value = value


def _save_cyclic(pickler: Any, value: Cyclic) -> None:
    def save(of: Any) -> None:
        if isinstance(of, Object) and id(of) in seen:
            pickler.write(pickler.get(seen[id(of)]))
        elif isinstance(of, Object):
            pickler.save_call(of)
            seen[id(of)] = 10_000 + len(seen)
            pickler.write(pickler.put(seen[id(of)]))
            save(of.state)
            pickler.write(b"b")
        elif isinstance(of, dict):
            pickler.write(b"}")
            for key, child in of.items():
                pickler.save(key)
                save(child)
                pickler.write(b"s")
        else:
            pickler.save(of)

    seen: dict[int, int] = {}
    save(value.value)


Pickler.dispatch[Cyclic] = _save_cyclic


@pytest.mark.parametrize("is_text", [False, True], ids=["bytes", "text"])
def test_bytes_that_a_pickle_names_often_are_held_once(folder, is_text):
    """Hundreds of tensors in a megabyte that the pickle has once."""
    storage = Storage("storage", Global("torch", "FloatStorage"), "0", "cpu", 250_000, None)
    system = {"protocol_version": 1001, "little_endian": True}
    start = LEGACY_MAGIC + pickled(1001) + pickled(system) + pickled(storage) + pickled(["0"])
    content = start + (250_000).to_bytes(8, "little") + bytes(1_000_000)
    inner = content.decode("latin1") if is_text else content
    views = {}
    for place in range(500):
        nested = Call(Global("torch.storage", "_load_from_bytes"), inner)
        views[str(place)] = Call(Global("torch._utils", "_rebuild_tensor_v2"), nested, place, (1,), (1,), False, {})
    (folder / "x.pkl").write_bytes(pickled(views))
    assert len(read_case("often", folder / "x.pkl")) == 500


def test_all_cases_ran(record_property):
    record_property("fuzz cases", sum(counted[kind] for kind in SHARE))
    assert all(counted[kind] >= round(CASES * share) for kind, share in SHARE.items())
