"""Batches: the same for any number of processes, workers and threads, and resumable bit for bit."""

from __future__ import annotations

import itertools
import json
from contextlib import closing

import numpy as np
import pytest

from parity.configs.augmentation import Augmentation
from parity.data import eval_batches, resize_and_crop, train_batches

pytest.importorskip("grain")


def _take(iterator, count=None):
    return list(itertools.islice(iterator, count))


def _assert_equal(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def _joined(parts):
    """The global batches, from one list of batches for each process."""
    return [
        {key: np.concatenate([part[key] for part in batch]) for key in batch[0]} for batch in zip(*parts, strict=True)
    ]


def _rows(batch_size, process_count):
    """The rows of each process."""
    return np.array_split(np.arange(batch_size), process_count)


@pytest.fixture(scope="module")
def expected(digits_train, train_options):
    """Two epochs of global batches: 59 of 48, and 42 of the 2,874 images are left over."""
    return _take(train_batches(digits_train, **train_options, num_epochs=2, num_threads=0))


# --- training ---


def test_batch(expected):
    assert len(expected) == 2 * 1437 // 48 == 59
    for batch in expected:
        assert batch.keys() == {"image", "label"}
        assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (48, 12, 10, 1))
        assert (batch["label"].dtype, batch["label"].shape) == (np.int32, (48,))


@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_same_for_any_number_of_processes_and_threads(process_count, digits_train, train_options, expected):
    parts = [
        _take(train_batches(digits_train, **train_options, num_epochs=2, rows=rows, num_threads=2))
        for rows in _rows(48, process_count)
    ]
    assert {len(batch["label"]) for part in parts for batch in part} == {48 // process_count}
    _assert_equal(_joined(parts), expected)


def test_any_rows_of_the_same_batches(digits_train, train_options, expected):
    """Two processes may hold the same rows, and a process rows that aren't neighbours."""
    rows = [0, 1, 7, 40]
    found = _take(train_batches(digits_train, **train_options, num_epochs=2, rows=rows, num_threads=0))
    _assert_equal(found, [{key: value[rows] for key, value in batch.items()} for batch in expected])


def test_same_for_workers_and_resumed_with_workers(digits_train, train_options, expected):
    options = {**train_options, "num_epochs": 2, "num_workers": 2, "num_threads": 1}
    iterator = train_batches(digits_train, **options)
    _assert_equal(_take(iterator, 5), expected[:5])
    state = json.loads(json.dumps(iterator.get_state()))
    # Without workers, and from a state that was taken with them.
    alone = train_batches(digits_train, **train_options, num_epochs=2)
    alone.set_state(state)
    _assert_equal(_take(alone), expected[5:])
    # With workers, to the end, which an odd number of batches makes uneven for two of them.
    iterator.set_state({**state, "step": 50})
    _assert_equal(_take(iterator), expected[50:])
    iterator.close()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_resume_bit_for_bit(num_threads, digits_train, train_options, expected):
    options = {**train_options, "num_threads": num_threads}
    iterator = train_batches(digits_train, **options)
    _take(iterator, 7)
    state = iterator.get_state()
    _assert_equal(_take(iterator, 30), expected[7:37])  # over the end of the first epoch
    iterator.set_state(state)
    _assert_equal(_take(iterator, 3), expected[7:10])
    fresh = train_batches(digits_train, **options)
    fresh.set_state(state)
    _assert_equal(_take(fresh, 30), expected[7:37])
    assert fresh.get_state()["step"] == 37


def test_start_step_is_a_step_of_the_whole_run(digits_train, train_options, expected):
    iterator = train_batches(digits_train, **train_options, start_step=40)
    assert iterator.get_state()["step"] == 40
    _assert_equal(_take(iterator, 10), expected[40:50])
    other = train_batches(digits_train, **train_options, start_step=3)
    other.set_state(iterator.get_state())
    _assert_equal(_take(other, 9), expected[50:])


def test_state_of_another_run_is_refused(digits_train, train_options):
    state = train_batches(digits_train, **train_options).get_state()
    for name, value in (("seed", 4), ("batch_size", 24)):
        iterator = train_batches(digits_train, **{**train_options, name: value})
        with pytest.raises(ValueError, match=rf"state: got {name} {train_options[name]}, expected {value}"):
            iterator.set_state(state)
    iterator = train_batches(digits_train, **train_options, num_epochs=1)
    with pytest.raises(ValueError, match=r"state: got keys \['next_index'\]"):
        iterator.set_state({"next_index": 3})
    with pytest.raises(ValueError, match="step: got 30, expected 0 to 29"):
        iterator.set_state({**state, "step": 30})
    iterator.set_state({**state, "step": 29})
    assert _take(iterator) == []


def test_orbax_state_round_trip_goes_through_json(digits_train, train_options):
    state = train_batches(digits_train, **train_options, start_step=2).get_state()
    assert state == {"step": 2, "seed": 3, "batch_size": 48, "num_images": 1437}
    assert json.loads(json.dumps(state)) == state


def test_no_image_is_lost_between_epochs(digits_test, preprocessing):
    """Epochs of 360 in batches of 48: batch 7 holds 24 images of the first and 24 of the second."""
    iterator = train_batches(
        digits_test,
        batch_size=48,
        image_size=(8, 8),
        preprocessing=preprocessing,
        augmentation=Augmentation(),
        seed=0,
        num_epochs=2,
    )
    rows = np.concatenate([batch["image"].reshape(48, -1) for batch in iterator])
    everything = sorted(example["image"].tobytes() for example in digits_test)
    first, second = ([row.tobytes() for row in part] for part in (rows[:360], rows[360:]))
    assert sorted(first) == everything
    assert sorted(second) == everything
    assert first != second


def test_augmentation_differs_between_epochs_and_seeds(digits_train, train_options, expected):
    other = _take(train_batches(digits_train, **{**train_options, "seed": 4}), 1)
    assert not np.array_equal(other[0]["image"], expected[0]["image"])
    assert not np.array_equal(other[0]["label"], expected[0]["label"])


def test_closed_iterator_stays_closed(digits_train, train_options):
    iterator = train_batches(digits_train, **train_options)
    next(iterator)
    iterator.close()
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_error_in_a_thread_or_worker_names_the_file(tmp_path, preprocessing):
    from PIL import Image

    from parity.data import open_source

    (tmp_path / "train/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train/cat/a.png")
    (tmp_path / "train/cat/b.png").write_text("no image")
    source = open_source(str(tmp_path), "train")
    options = {"batch_size": 2, "image_size": (8, 8), "preprocessing": preprocessing}
    for num_workers in (0, 1):
        batches = train_batches(source, **options, augmentation=Augmentation(), seed=0, num_workers=num_workers)
        with pytest.raises(ValueError, match=r"train/cat/b.png: can't be read") as caught, closing(batches):
            next(batches)
        assert "\n" not in str(caught.value), "grain's hint is a note"
    with pytest.raises(ValueError, match=r"train/cat/b.png: can't be read"):
        next(eval_batches(source, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": []}, "rows: got none, expected at least one row of each batch"),
        ({"rows": [0, 48]}, "rows: got 48, expected 0 to 47"),
        ({"rows": range(-1, 4)}, "rows: got -1, expected 0 to 47"),
        (
            {"batch_size": 3, "augmentation": Augmentation(mixup=0.8)},
            "batch_size: got 3, expected an even number, for images are mixed in pairs",
        ),
        ({"batch_size": 0}, "batch_size: got 0, expected 1 or more"),
        ({"batch_size": 1438}, "batch_size: got 1438, expected 1437 or fewer, the images of digits"),
        ({"seed": -1}, "seed: got -1, expected 0 to 4294967295"),
        ({"num_epochs": 0}, "num_epochs: got 0, expected 1 or more"),
        ({"num_threads": -1}, "num_threads: got -1"),
        ({"num_workers": -1}, "num_workers: got -1"),
        ({"start_step": -1}, "step: got -1"),
    ],
)
def test_errors(options, message, digits_train, train_options):
    with pytest.raises(ValueError, match=message):
        train_batches(digits_train, **{**train_options, **options})


# --- evaluation ---


@pytest.mark.parametrize(("batch_size", "process_count"), [(64, 1), (64, 4), (360, 1), (1000, 2), (3, 3)])
def test_eval_covers_each_image_once_in_order(batch_size, process_count, digits_test, preprocessing):
    options = {"batch_size": batch_size, "image_size": (10, 12), "preprocessing": preprocessing}
    parts = [_take(eval_batches(digits_test, **options, rows=rows)) for rows in _rows(batch_size, process_count)]
    assert {len(part) for part in parts} == {-(-360 // batch_size)}
    batches = _joined(parts)
    for batch in batches:
        assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (batch_size, 10, 12, 1))
        assert (batch["label"].dtype, batch["mask"].dtype) == (np.int32, np.bool_)
        assert not batch["image"][~batch["mask"]].any()
    everything = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    assert everything["mask"].sum() == 360
    assert everything["mask"][:360].all()
    np.testing.assert_array_equal(everything["label"][:360], [example["label"] for example in digits_test])
    images = np.stack([resize_and_crop(example["image"], (10, 12), preprocessing) for example in digits_test])
    np.testing.assert_array_equal(everything["image"][:360], images)


def test_eval_errors(digits_test, preprocessing):
    options = {"image_size": (8, 8), "preprocessing": preprocessing}
    with pytest.raises(ValueError, match="batch_size: got 0, expected 1 or more"):
        eval_batches(digits_test, batch_size=0, **options)
    with pytest.raises(ValueError, match="rows: got 8, expected 0 to 7"):
        eval_batches(digits_test, batch_size=8, rows=[8], **options)
