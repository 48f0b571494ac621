"""Sources: the digits and TFDS sets."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from parity.configs.image_folder import FolderOptions
from parity.data import default_data_dir, open_source

# --- digits ---


def test_digits_are_those_of_sklearn(digits_train, digits_test):
    from sklearn.datasets import load_digits

    original = load_digits()
    pixels = np.round(original.images * 255 / 16).astype(np.uint8)[..., None]
    is_test = np.arange(1797) % 5 == 0
    for source, rows, size in ((digits_test, is_test, 360), (digits_train, ~is_test, 1437)):
        assert len(source) == size
        examples = list(source)
        np.testing.assert_array_equal(np.stack([example["image"] for example in examples]), pixels[rows])
        np.testing.assert_array_equal([example["label"] for example in examples], original.target[rows])
        assert [example["index"] for example in examples] == list(range(size))
        assert source.num_classes == 10
        assert source.class_names == tuple("0123456789")
        assert source.in_chans == 1


def test_digits_are_array_records(digits_dir, digits_train):
    assert digits_train.directory == digits_dir / "sklearn_digits" / "1.0.0"
    names = sorted(path.name for path in digits_train.directory.glob("*.array_record*"))
    assert names == [f"sklearn_digits-{split}.array_record-00000-of-00001" for split in ("test", "train")]


def test_index_counts_from_the_end_and_ends(digits_test):
    assert digits_test[-1]["index"] == 359
    with pytest.raises(IndexError, match="got index 360, expected one of 360"):
        digits_test[360]


def test_slices_and_sums_of_splits(digits_dir, digits_train):
    part = open_source("digits", "train[:10%]", data_dir=digits_dir)
    assert len(part) == 144
    np.testing.assert_array_equal(part[143]["image"], digits_train[143]["image"])
    assert len(open_source("digits", "train+test", data_dir=digits_dir)) == 1797


def test_pickled_copy_reads_the_same(digits_train):
    copy = pickle.loads(pickle.dumps(digits_train))
    assert copy == digits_train
    np.testing.assert_array_equal(copy[7]["image"], digits_train[7]["image"])


def test_unknown_split(digits_dir):
    with pytest.raises(ValueError, match=r"digits: got split 'trian', expected one of \['test', 'train'\]"):
        open_source("digits", "trian", data_dir=digits_dir)


def test_data_dir_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_PARITY_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("VIT_PARITY_DATA")
    assert default_data_dir() == Path.home() / ".cache" / "vit-parity" / "data"


# Each waits until the other has begun to write, so that both finish, and one comes second.
_RACER = """
import pathlib, sys, time
from parity.data import open_source
from parity.data.digits import SklearnDigits

root, me, other = pathlib.Path(sys.argv[1]), *sys.argv[2:]
generate = SklearnDigits._split_generators

def wait_for_the_other(self, dl_manager):
    (root / me).touch()
    deadline = time.monotonic() + 30
    while not (root / other).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return generate(self, dl_manager)

SklearnDigits._split_generators = wait_for_the_other
source = open_source("digits", "test", data_dir=root / "data")
print(len(source), sum(int(example["image"].sum()) for example in source))
"""


def test_two_processes_prepare_at_once(tmp_path, digits_test):
    names = ("first", "second")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), me, other],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me, other in (names, names[::-1])
    ]
    expected = f"{len(digits_test)} {sum(int(example['image'].sum()) for example in digits_test)}"
    for racer in racers:
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
        assert out.splitlines()[-1] == expected
    assert [path.name for path in (tmp_path / "data" / "sklearn_digits").iterdir()] == ["1.0.0"]


# --- other TFDS sets ---


@pytest.fixture(scope="module")
def tiny_builder():
    """A TFDS set of images of two sizes and two classes, one set without labels, and one that needs TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pil = pytest.importorskip("PIL.Image")
    from etils import epath

    class TinyColours(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.1.0")
        code_path = epath.Path(__file__)

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 3)), **self.extra_features()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def extra_features(self):
            return {"label": tfds.features.ClassLabel(names=["blue", "red"])}

        def encode(self, image):
            return pil.fromarray(image)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples(8), "validation": self._generate_examples(4)}

        def _generate_examples(self, count):
            for i in range(count):
                image = np.full((5 + i % 2, 7, 3), 10 * i, np.uint8)
                yield i, {"image": self.encode(image), "label": ("blue", "red")[i % 2]}

    class TinyUnlabelled(TinyColours):
        def extra_features(self):
            return {}

    class TinyNumpy(TinyColours):
        def encode(self, image):
            return image

    return TinyColours, TinyUnlabelled, TinyNumpy


@pytest.mark.usefixtures("tiny_builder")
@pytest.mark.parametrize("name", ["tiny_colours", "tiny_colours:2.1.0"])
def test_any_tfds_set(name, tmp_path):
    source = open_source(name, "train[:50%]", data_dir=tmp_path)
    assert len(source) == 4
    assert source.class_names == ("blue", "red")
    assert source.in_chans == 3
    example = source[0]
    row = example["image"][0, 0, 0] // 10  # TFDS shuffles as it writes
    np.testing.assert_array_equal(example["image"], np.full((5 + row % 2, 7, 3), 10 * row, np.uint8))
    assert example["label"] == row % 2
    assert len(pickle.loads(pickle.dumps(source))) == 4


@pytest.mark.usefixtures("tiny_builder")
def test_a_set_without_labels(tmp_path):
    with pytest.raises(ValueError, match=r"tiny_unlabelled: got features \['image'\], expected an Image 'image'"):
        open_source("tiny_unlabelled", "train", data_dir=tmp_path)


@pytest.mark.usefixtures("tiny_builder")
def test_a_set_that_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"(?s)tiny_numpy isn't prepared in .*[Tt]ensor[Ff]low"):
        open_source("tiny_numpy", "train", data_dir=tmp_path)


@pytest.mark.usefixtures("tiny_builder")
def test_a_version_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"got 'tiny_colours:1.0.0', which TFDS can't open"):
        open_source("tiny_colours:1.0.0", "train", data_dir=tmp_path)


def test_unknown_name_has_a_close_match(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"got 'cifar1', .* did you mean 'cifar10'"):
        open_source("cifar1", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        open_source("digit", "train", data_dir=tmp_path)
    assert time.monotonic() - began < 10, "did TFDS ask the network?"


# --- any of them ---


def test_channels_as_the_model_takes_them(digits_test):
    colour = digits_test.with_channels(3)
    assert (colour.in_chans, colour.class_names) == (3, digits_test.class_names)
    np.testing.assert_array_equal(colour[5]["image"], np.repeat(digits_test[5]["image"], 3, axis=-1))
    np.testing.assert_array_equal(colour.with_channels(1)[5]["image"], digits_test[5]["image"])
    with pytest.raises(
        ValueError, match=r"^in_chans: the model takes 4 channels, and the images of digits can be read"
    ):
        digits_test.with_channels(4)


@pytest.mark.usefixtures("tiny_builder")
def test_colours_of_a_tfds_set_become_grey(tmp_path):
    source = open_source("tiny_colours", "train", data_dir=tmp_path)
    grey = source.with_channels(1)
    assert grey[3]["image"].shape == (*source[3]["image"].shape[:2], 1)
    np.testing.assert_array_equal(grey[3]["image"], source[3]["image"][..., :1])


def test_options_of_folders_are_refused_elsewhere(tmp_path):
    with pytest.raises(ValueError, match=r"^folder: got options for image folders, but digits is a TFDS set"):
        open_source("digits", "train", data_dir=tmp_path, folder=FolderOptions(exif_orientation=True))


def test_a_bare_word_that_is_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"got 'pets', .*; for the folder of that name write ./pets$"):
        open_source("pets", "train", data_dir=tmp_path / "data")
