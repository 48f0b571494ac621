"""Without one of the guards, the fuzz tests report what it guards against."""

from __future__ import annotations

import pickle
from collections import Counter

import harness
import pytest
import test_fuzz_msgpack
import test_fuzz_npz
import test_fuzz_pickles
import test_fuzz_safetensors
import test_fuzz_torch
from harness import BrokenError, attempt, read_case
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parity.checkpoints import CheckpointError, write_tensors
from parity.checkpoints.containers.safetensors_file import WEIGHTS
from parity.checkpoints.containers.stored import StoredArray

CASES = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
BROKEN = (BrokenError, AssertionError)


@pytest.fixture(autouse=True)
def _uncounted(monkeypatch):
    monkeypatch.setattr(harness, "counted", Counter())


@pytest.fixture
def originals(torch_files):
    return {name: (torch_files / name).read_bytes() for name in test_fuzz_torch.FILES}


def run(test, **arguments):
    """A fuzz test with enough cases to find what is planted."""
    strategies = {name: value for name, value in arguments.items() if isinstance(value, st.SearchStrategy)}
    fixed = {name: value for name, value in arguments.items() if name not in strategies}
    CASES(given(**strategies)(lambda **drawn: test.hypothesis.inner_test(**fixed, **drawn)))()


VIEWS = dict(data=test_fuzz_torch.views(), legacy=st.booleans())


def test_with_all_guards_nothing_is_found(folder, originals):
    run(test_fuzz_torch.test_views, folder=folder, originals=originals, **VIEWS)


def test_views_that_leave_their_storage_are_found(folder, originals, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.pickle_torch.check_shape", lambda *_: 0)
    with pytest.raises(BROKEN):
        run(test_fuzz_torch.test_views, folder=folder, originals=originals, **VIEWS)


def test_numbers_of_the_wrong_place_are_found(folder, originals, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.stored._is_contiguous", lambda *_: True)
    with pytest.raises(BROKEN):
        run(test_fuzz_torch.test_views, folder=folder, originals=originals, **VIEWS)


class Naive(pickle._Unpickler):
    """What `torch.load` does without `weights_only`."""

    def persistent_load(self, identity):
        return identity


@pytest.mark.filterwarnings("ignore")
def test_code_that_runs_is_found(folder, originals, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.pickle_file.read_pickle", lambda file: (Naive(file).load(), []))
    file = folder / "x.pt"
    value = {"state_dict": test_fuzz_torch.Call(test_fuzz_torch.Global("posix", "system"), f"touch {folder / 'ran'}")}
    file.write_bytes(test_fuzz_torch.as_file(value, originals, legacy=True))
    read_case("code", file)
    assert (folder / "ran").exists()
    (folder / "ran").unlink()


def test_a_name_that_weights_need_and_that_goes_unsaid_is_found(tmp_path, originals, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.pickle_file._tensor_of", lambda value: None)
    with pytest.raises(BROKEN):
        test_fuzz_torch.test_weights_that_need_a_name_are_refused_by_it(tmp_path, originals, "os system")


def test_modules_read_as_plain_objects_are_found(folder, originals, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.tree._MODULE", {"nothing has this"})
    arguments = dict(data=test_fuzz_pickles.modules(), legacy=st.booleans(), above=st.just(""))
    with pytest.raises(BROKEN):
        run(test_fuzz_pickles.test_objects, folder=folder, originals=originals, **arguments)


def test_arrays_in_the_wrong_order_are_found(folder, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.pickle_numpy.c_strides", lambda shape, _: (0,) * len(shape))
    with pytest.raises(BROKEN):
        run(test_fuzz_pickles.test_arrays, folder=folder, data=test_fuzz_pickles.arrays())


def test_pieces_taken_for_one_are_found(folder, monkeypatch):
    def read(self, first, shape, strides):
        return StoredArray._read(self, self.pieces[0][0] + first, shape, strides)

    monkeypatch.setattr("parity.checkpoints.containers.msgpack_file.ChunkedArray._read", read)
    with pytest.raises(BROKEN):
        run(test_fuzz_msgpack.test_arrays, folder=folder, data=st.data())


def test_values_within_each_other_without_an_end_are_found(folder, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.msgpack_file._MAX_DEPTH", 10**9)
    with pytest.raises(BROKEN, match="RecursionError instead of"):
        test_fuzz_msgpack.test_values_without_an_end(folder, b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0")


class Anything(int):
    """A size that any other is equal to."""

    __hash__ = int.__hash__

    def __radd__(self, other):
        return self

    def __ne__(self, other):
        return False


def test_a_bomb_is_found(folder, monkeypatch):
    monkeypatch.setattr("parity.checkpoints.containers.npz_file.check_shape", lambda *_: Anything())
    with pytest.raises(BROKEN, match="bytes were allocated"):
        test_fuzz_npz.test_a_member_larger_than_its_header_says_is_not_inflated(folder, test_fuzz_npz.ZIP_DEFLATED)


def test_overlapping_tensors_are_found(folder, tensors, monkeypatch):
    write_tensors(folder, tensors)
    whole = (folder / WEIGHTS).read_bytes()
    monkeypatch.setattr("parity.checkpoints.containers.safetensors_file.sorted", lambda regions: [], raising=False)
    with pytest.raises(BROKEN):
        run(test_fuzz_safetensors.test_headers, folder=folder, whole=whole, data=st.data())


def test_a_hang_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.3)

    def endless():
        while True:
            pass

    with pytest.raises(BrokenError, match=r"more than 0\.3 seconds"):
        attempt(endless, tmp_path, size=0)


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), RecursionError(), ValueError("x")])
def test_another_error_is_found(tmp_path, error):
    def fail():
        raise error

    with pytest.raises(BrokenError, match="instead of a CheckpointError"):
        attempt(fail, tmp_path, size=0)


def test_an_error_that_names_no_file_is_found(tmp_path):
    def fail():
        raise CheckpointError("something is wrong")

    with pytest.raises(BrokenError, match="doesn't name"):
        attempt(fail, tmp_path, size=0)
