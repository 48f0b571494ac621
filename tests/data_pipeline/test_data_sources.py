"""Sources: the digits, TFDS sets and image folders."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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


# --- image folders ---


@pytest.fixture
def folder(tmp_path):
    """train: cat 3 (one nested), dog 2; test: cat 1, dog 1."""
    pil = pytest.importorskip("PIL.Image")
    root = tmp_path / "pets"
    names = ("train/dog/b.png", "train/dog/a.bmp", "train/cat/x.PNG", "train/cat/deep/er/y.png", "train/cat/w.webp")
    for i, name in enumerate((*names, "test/cat/t.png", "test/dog/u.jpeg")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pil.fromarray(np.full((4, 6, 3), 20 * i, np.uint8)).save(path)
    (root / "train/cat/notes.txt").write_text("not an image")
    (root / "train/cat/._x.png").write_text("left by macOS")
    return root


def test_folder(folder):
    source = open_source(str(folder), "train")
    assert source.class_names == ("cat", "dog")
    names = [str(path.relative_to(folder / "train")) for path in source.files]
    assert names == ["cat/deep/er/y.png", "cat/w.webp", "cat/x.PNG", "dog/a.bmp", "dog/b.png"]
    assert [example["label"] for example in source] == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(source[4]["image"], np.zeros((4, 6, 3), np.uint8))
    assert len(open_source(str(folder), "test")) == 2
    assert pickle.loads(pickle.dumps(source)) == source


def test_folder_by_relative_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert len(open_source("./pets", "train")) == 5
    assert len(open_source("pets/", "train")) == 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_folder_converts_to_rgb(mode, folder):
    from PIL import Image

    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(folder / "train/cat/a.png")
    np.testing.assert_array_equal(open_source(str(folder), "train")[0]["image"], np.full((4, 6, 3), 255, np.uint8))


def test_sixteen_bits_are_not_clipped_in_silence(folder):
    from PIL import Image

    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(folder / "train/cat/a.png")
    with pytest.raises(ValueError, match=r"cat/a.png: .*got pixels of mode I;16, expected 8 bits"):
        open_source(str(folder), "train")[0]


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated"])
def test_corrupted_file_is_named(damage, folder):
    from PIL import Image

    path = folder / "train/cat/a.png"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "garbage": b"no image at all", "truncated": content[:1000]}[damage])
    source = open_source(str(folder), "train")
    with pytest.raises(ValueError, match=r"pets/train/cat/a.png: can't be read as an image"):
        source[0]


def test_folder_classes_differ(folder):
    (folder / "test" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"train and test differ in their classes: \['emu'\]"):
        open_source(str(folder), "train")


def test_folder_errors(folder, tmp_path):
    with pytest.raises(ValueError, match=r"got split 'dev', expected one of its subfolders \('test', 'train'\)"):
        open_source(str(folder), "dev")
    with pytest.raises(ValueError, match="nowhere', expected an existing folder"):
        open_source(str(tmp_path / "nowhere"), "train")
    (tmp_path / "void/train/cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"void/train: got no image"):
        open_source(str(tmp_path / "void"), "train")
