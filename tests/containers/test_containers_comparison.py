"""Two files of tensors held against each other: every change is found, with its size and place, and nothing else is."""

from __future__ import annotations

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from parity.checkpoints import CheckpointError, open_tensors, write_tensors
from parity.checkpoints.comparison import compare_tensors, remark
from parity.checkpoints.containers import parts
from parity.checkpoints.containers.npz_file import DeflatedArray
from parity.checkpoints.containers.parts import flat_pieces
from parity.checkpoints.containers.safetensors_file import DTYPES
from parity.checkpoints.name_groups import group_name, skeleton, varying
from parity.checkpoints.statistics import statistics_of
from parity.compare import difference

# A few rounding errors: sums of pieces are in another order.
ROUNDING = 8 * np.finfo(np.float64).eps
LARGEST = np.finfo(np.float64).max


def one(left, right, **options):
    """The difference of two arrays."""
    (found,) = compare_tensors({"a": np.asarray(left)}, {"a": np.asarray(right)}, **options).differences
    return found


def save(kind, directory, tensors):
    directory.mkdir()
    match kind:
        case "safetensors":
            safetensors.numpy.save_file(tensors, directory / "x")
        case "npz":
            np.savez(directory / "x.npz", **tensors)
            (directory / "x.npz").rename(directory / "x")
        case "compressed":
            np.savez_compressed(directory / "x.npz", **tensors)
            (directory / "x.npz").rename(directory / "x")
    return open_tensors(directory / "x")


@pytest.mark.parametrize("kind", ["safetensors", "npz", "compressed", "weights.pt", "weights_legacy.pt"])
def test_containers_of_the_same_tensors_are_equal(tmp_path, torch_files, tensors, kind):
    opened = open_tensors(torch_files / kind) if kind.endswith("pt") else save(kind, tmp_path / "x", tensors)
    found = compare_tensors(opened, tensors)
    assert found.equal
    assert found.counts == {"equal": len(tensors)}


@pytest.mark.parametrize("kind", ["safetensors", "compressed"])
def test_every_single_change_is_found_in_its_place(tmp_path, tensors, kind):
    opened = save(kind, tmp_path / "x", tensors)
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if not tensor.size:
            continue
        changed = tensor.copy()
        place = tuple(int(rng.integers(size)) for size in tensor.shape)
        changed[place] = not changed[place] if tensor.dtype == bool else changed[place] + 1
        found = compare_tensors(opened, {**tensors, name: changed})
        assert not found.equal
        assert found.counts == {"differing": 1, "equal": len(tensors) - 1}
        first = found.differences[0]
        assert (first.name, first.index, first.count, first.kind) == (name, place, 1, "differing")
        measured = difference(name, tensor, changed)
        assert first.max_abs == measured.max_abs
        np.testing.assert_allclose(first.relative_l2, measured.relative_l2, rtol=ROUNDING)


@pytest.mark.parametrize("dtype", [*DTYPES.values(), np.dtype(np.complex128)], ids=str)
def test_every_type(dtype):
    left = np.array([[1, 0, 1], [1, 1, 1]]).astype(dtype)
    right = left.copy()
    right[1, 2] = 0.5 if dtype == DTYPES["F8_E8M0"] else 0
    assert one(left, left.copy()).kind == "equal"
    found = one(left, right)
    assert (found.kind, found.index, found.count) == ("differing", (1, 2), 1)
    assert found.max_abs == (0.5 if dtype == DTYPES["F8_E8M0"] else 1)


@pytest.mark.parametrize("left", DTYPES.values(), ids=DTYPES)
def test_any_two_types_against_numbers_one_by_one(monkeypatch, left):
    """Values that are special to some type, in pieces of three, against Python's own numbers."""
    monkeypatch.setattr(parts, "_PIECE", 3)
    rng = np.random.default_rng(0)
    values = np.array([0.0, -0.0, math.nan, math.inf, -math.inf, 1.0, 2.0, 3.5])
    for right in DTYPES.values():
        with np.errstate(all="ignore"):
            sides = [rng.choice(values, (2, 5)).astype(dtype) for dtype in (left, right)]
        pairs = list(zip(*(side.reshape(-1).tolist() for side in sides), strict=True))
        apart = [0.0 if a == b or (a != a and b != b) else abs(a - b) for a, b in pairs]
        apart = [math.inf if math.isnan(distance) else float(distance) for distance in apart]
        found = one(*sides)
        assert found.kind == "other type" if left != right else found.kind in ("differing", "equal")
        assert found.count == sum(distance > 0 for distance in apart)
        assert found.max_abs == max(apart)
        assert found.index == (divmod(apart.index(max(apart)), 5) if found.count else None)


def test_what_is_only_on_one_side_or_of_another_shape():
    left = {"b": np.ones((2, 3)), "a": np.ones(2), "t": np.ones((2, 3)), "e": np.ones(1)}
    right = {"c": np.ones(4), "a": np.ones(3), "t": np.ones((3, 2)), "e": np.ones(1)}
    found = compare_tensors(left, right)
    assert [(one.kind, one.name, one.shapes) for one in found.differences] == [
        ("only left", "b", ((2, 3), None)),
        ("only right", "c", (None, (4,))),
        ("misshapen", "a", ((2,), (3,))),
        ("misshapen", "t", ((2, 3), (3, 2))),
        ("equal", "e", ((1,), (1,))),
    ]
    assert found.differences[0].dtypes == ("float64", None)
    assert all(one.relative_l2 == math.inf for one in found.differences[:4])
    assert not found.equal
    assert not compare_tensors({}, {}).equal


def test_the_worst_comes_first():
    left = {"small": np.ones(3), "large": np.ones(3), "nan": np.ones(3)}
    right = {"small": np.full(3, 1.5), "large": np.full(3, 9.0), "nan": np.array([1, np.nan, 1])}
    assert [one.name for one in compare_tensors(left, right).differences] == ["nan", "large", "small"]


def test_nan_is_equal_to_nan_in_the_same_place():
    values = np.array([1.0, np.nan, np.inf, -np.inf])
    assert one(values, values.copy()).kind == "equal"
    assert one(values, values.copy()).nan == (1, 1)
    # Beside a difference the same NaN and infinities count for nothing.
    found = one(values, np.array([3.0, np.nan, np.inf, -np.inf]))
    assert (found.max_abs, found.index, found.count) == (2, (0,), 1)
    np.testing.assert_allclose(found.relative_l2, 2 / 3, rtol=ROUNDING)
    assert remark([found]) == "1 of 4 elements; NaN: 1 and 1; infinite: 2 and 2"


@pytest.mark.parametrize(
    ("left", "right"), [(1, np.nan), (np.nan, 1), (1, np.inf), (-np.inf, np.inf), (np.inf, np.nan), (1j * np.nan, 1j)]
)
def test_nan_or_infinity_on_one_side_is_never_equal(left, right):
    dtype = np.result_type(left, right, 0.0)
    found = one(np.array([0, left], dtype), np.array([0, right], dtype), tolerance=LARGEST)
    assert (found.kind, found.index, found.count) == ("differing", (1,), 1)
    assert found.relative_l2 == found.max_abs == math.inf
    assert found.to_dict()["relative_l2"] is None


def test_bits_that_no_value_shows():
    zeros = one([0.0, 1.0], [-0.0, 1.0])
    quiet, other = np.array([0x7FF8000000000000, 0x7FF8000000000001], np.uint64).view(np.float64)
    payload = one([quiet, 1.0], [other, 1.0])
    for found in (zeros, payload):
        assert (found.kind, found.relative_l2, found.count) == ("differing", 0, 0)
        assert remark([found]).startswith("signs of zeros or bits of NaN alone")
    assert one([0.0], [-0.0], tolerance=0).kind == "within tolerance"


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_are_one_float64(dtype):
    found = one(np.array([2**60, 5], dtype), np.array([2**60 + 1, 5], dtype), tolerance=0)
    assert (found.kind, found.max_abs, found.index) == ("differing", 1, (0,))
    if dtype == np.int64:
        assert one(np.array([-(2**63)]), np.array([2**63 - 1])).max_abs == 2.0**64


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e-300])
def test_squares_that_float64_has_no_room_for(size):
    found = one(np.array([size, 0, size]), np.array([size, size, size]), tolerance=0)
    np.testing.assert_allclose(found.relative_l2, math.sqrt(1 / 3), rtol=ROUNDING)
    assert found.kind == "differing"


def test_zeros_on_the_right_have_no_scale():
    found = one(np.ones(3), np.zeros(3), tolerance=LARGEST)
    assert (found.kind, found.relative_l2, found.max_abs) == ("differing", math.inf, 1)
    assert remark([found]) == "zeros on the right"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_a_copy_in_half_precision(dtype):
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    there, back = one(values, values.astype(dtype)), one(values.astype(dtype), values)
    assert there.kind == back.kind == "other type"
    assert there.relative_l2 > 0
    assert remark([there]) == f"left one rounded to {np.dtype(dtype).name}"
    assert remark([back]) == f"right one rounded to {np.dtype(dtype).name}"
    other = values.astype(dtype)
    other[3, 4] *= 2
    assert one(values, other).rounded == (False, False)
    assert remark([one(values.astype(dtype), values.astype(dtype).astype(np.float32))]) == "same values"


def test_a_tolerance_is_of_values_whatever_their_type():
    left, right = np.array([3.0, 4.0]), np.array([3.0, 5.0], np.float32)
    measured = one(left, right).relative_l2
    assert one(left, right, tolerance=measured).kind == "within tolerance"
    assert one(left, right, tolerance=np.nextafter(measured, 0)).kind == "other type"
    assert one(np.ones(2), np.ones(2, np.float32), tolerance=0).kind == "within tolerance"
    assert one(np.ones(2), np.ones(2, np.float32)).kind == "other type"
    assert one(np.zeros((0, 3)), np.zeros((0, 3), np.float32)).kind == "other type"
    assert one(np.ones(2), np.ones(2), tolerance=0).kind == "equal"


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -1.0])
def test_a_tolerance_that_is_none(tolerance):
    with pytest.raises(ValueError, match=r"^tolerance: got .*, expected a number from 0 on$"):
        one(np.ones(2), np.ones(2), tolerance=tolerance)


@pytest.mark.parametrize("read", [1, 2, 5, 7, 10**6])
def test_pieces_are_the_tensor(tmp_path, monkeypatch, read):
    monkeypatch.setattr(parts, "_READ", read)
    monkeypatch.setattr(parts, "_PIECE", 3)
    rng = np.random.default_rng(0)
    shapes = [(), (1,), (11,), (2, 3, 5), (1, 13), (13, 1), (4, 0, 3), (1, 2, 1, 9)]
    arrays = {str(shape): np.asfortranarray(rng.normal(size=shape)) for shape in shapes}
    for kind in ("npz", "compressed"):
        opened = save(kind, tmp_path / kind, arrays)
        for name, array in arrays.items():
            pieces = list(flat_pieces(opened, name))
            assert all(0 < piece.size <= 3 for piece in pieces)
            assert np.array_equal(np.concatenate([*pieces, np.zeros(0)]), array.ravel(order="C"))
    moved = {
        name: array + (np.arange(array.size) == array.size - 1).reshape(array.shape) for name, array in arrays.items()
    }
    for found in compare_tensors(opened, moved).differences:
        assert found.count == min(1, found.size)
        assert found.index == (tuple(size - 1 for size in moved[found.name].shape) if found.size else None)


def test_what_is_compressed_is_inflated_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_READ", 10)
    opened = save("compressed", tmp_path / "x", {"a": np.arange(1000.0)})
    reads = []
    read = DeflatedArray._read
    monkeypatch.setattr(DeflatedArray, "_read", lambda self, *args: reads.append(1) or read(self, *args))
    assert sum(piece.size for piece in flat_pieces(opened, "a")) == 1000
    assert len(reads) == 1


def test_memory_does_not_grow_with_a_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_READ", 2**17)
    values = {"a": np.zeros((1, 2**22), np.float32)}
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        write_tensors(tmp_path / side, values)
        values["a"][0, -1] = 1
    opened = open_tensors(tmp_path / "left"), open_tensors(tmp_path / "right")
    tracemalloc.start()
    found = compare_tensors(*opened)
    statistics = list(statistics_of(opened[1]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.differences[0].index == (0, 2**22 - 1)
    assert statistics[0].mean == 2**-22
    assert peak < values["a"].nbytes


def test_a_file_that_shrinks_is_named(tmp_path):
    opened = save("safetensors", tmp_path / "x", {"a": np.ones(9)})
    with (tmp_path / "x" / "x").open("rb+") as file:
        file.truncate(opened.arrays["a"].offset + 8)
    with pytest.raises(CheckpointError, match=r"x: tensor a: the file ends 64 bytes too early"):
        compare_tensors(opened, {"a": np.ones(9)})


def test_progress_ends_with_all(tensors):
    seen = []
    compare_tensors(tensors, tensors, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (2 * sum(tensor.nbytes for tensor in tensors.values()),) * 2


def test_statistics(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(parts, "_PIECE", 5)
    tensors |= {"far": 1e9 + np.arange(12.0), "nan": np.array([1.0, np.nan, 3.0, np.inf]), "z": np.array([3 + 4j])}
    for found in statistics_of(tensors):
        tensor = np.abs(tensors[found.name].astype(np.complex128))
        tensor = tensors[found.name].astype(np.float64) if found.name != "z" else tensor
        finite = tensor[np.isfinite(tensor)]
        assert (found.shape, found.dtype) == (tensor.shape, tensors[found.name].dtype.name)
        assert (found.nan, found.infinite) == ((1, 1) if found.name == "nan" else (0, 0))
        if finite.size:
            np.testing.assert_allclose([found.mean, found.std], [finite.mean(), finite.std()], rtol=ROUNDING)
        else:
            assert found.to_dict()["mean"] is None


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["blocks.0.a", "blocks.1.a", "blocks.2.a", "blocks.7.a"], "blocks.{0-2,7}.a"),
        (["blocks.3.a"], "blocks.3.a"),
        (["layers.0.blocks.0.b", "layers.0.blocks.1.b", "layers.1.blocks.1.b"], "layers.{0-1}.blocks.{0-1}.b"),
        (["T/encoderblock_0/k", "T/encoderblock_10/k"], "T/encoderblock_{0,10}/k"),
        (["optimizer.state.4", "optimizer.state.5"], "optimizer.state.{4-5}"),
        (["9.w", "10.w"], "{9-10}.w"),
    ],
)
def test_groups_of_names(names, group):
    assert len(set(map(skeleton, names))) == 1
    assert group_name(names) == group
    if len(names) > 1:
        assert len({varying(name, names) for name in names}) == len(names)
    else:
        assert varying(names[0], names) == ""


def test_names_of_different_groups():
    names = ["blocks.0.norm1.weight", "blocks.0.norm2.weight", "blocks.0.gamma_1", "blocks.0.gamma_2", "norm1", "norm"]
    assert len(set(map(skeleton, names))) == len(names)
