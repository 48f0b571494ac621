"""Image folders: what is read, and that all else is said."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from parity.configs.image_folder import FolderOptions
from parity.data import ImageWarning, open_source

Image = pytest.importorskip("PIL.Image")


def _save(path, value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """train: cat 3 (one nested), dog 2; test: cat 1, dog 1."""
    root = tmp_path / "pets"
    names = ("train/dog/b.png", "train/dog/a.bmp", "train/cat/x.PNG", "train/cat/deep/er/y.png", "train/cat/w.webp")
    for i, name in enumerate((*names, "test/cat/t.png", "test/dog/u.jpeg")):
        _save(root / name, 20 * i)
    return root


def _said(folder, split="train", **options):
    """The source and what was said of it, line for line."""
    with pytest.warns(ImageWarning) as caught:
        source = open_source(str(folder), split, folder=FolderOptions(**options))
    return source, [str(warning.message) for warning in caught]


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


def test_grey_of_an_image_folder(folder):
    source = open_source(str(folder), "train").with_channels(1)
    assert source.in_chans == 1
    for example, value in zip(source, (60, 80, 40, 20, 0), strict=True):
        np.testing.assert_array_equal(example["image"], np.full((4, 6, 1), value, np.uint8))


SUFFIXES = ("tif", "TIFF", "gif", "BMP", "webp", "jfif", "JPG", "jpe", "ppm", "pgm", "pnm", "apng")
FORMATS = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "pnm": "PPM", "apng": "PNG"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_suffixes_that_are_read(suffix, folder):
    _save(folder / f"train/cat/0.{suffix}", 77, format=FORMATS.get(suffix))
    source = open_source(str(folder), "train")
    assert source.files[0].name == f"0.{suffix}"
    np.testing.assert_array_equal(source[0]["image"], np.full((4, 6, 3), 77, np.uint8))


def test_what_is_not_read_is_said_in_one_line(folder):
    cat = folder / "train/cat"
    for name in (".DS_Store", "._x.PNG", "Thumbs.db", "notes.txt", "a.heic", "b.heic", "c.HEIC", "d.heic", "plain"):
        (cat / name).write_bytes(b"")
    (cat / "gone.jpg").symlink_to(cat / "nowhere.jpg")
    _save(cat / "album.jpg/inside.png")
    (cat / "again").symlink_to(cat)
    (folder / "train/.ipynb_checkpoints").mkdir()
    (folder / "train/__MACOSX").mkdir()
    _save(folder / "train/stray.png")
    os.mkfifo(cat / "pipe.png")
    source, lines = _said(folder)
    assert source.class_names == ("cat", "dog")
    assert len(source) == 6, "the five of before and the one in album.jpg"
    assert lines == [
        f"image folder {folder / 'train'}: 6 images; not read: hidden or a system's: 5 (.ipynb_checkpoints, __MACOSX, "
        "cat/.DS_Store, 2 more); .heic: 4 (cat/a.heic, cat/b.heic, cat/c.HEIC, 1 more); outside the class folders: 1 "
        "(stray.png); links to a folder above: 1 (cat/again); links to nothing: 1 (cat/gone.jpg); .txt: 1 "
        "(cat/notes.txt); pipes and the like: 1 (cat/pipe.png); without a suffix: 1 (cat/plain); folders named like an "
        "image: 1 (cat/album.jpg)"
    ]


def test_names_that_do_not_print(folder):
    for name in (b"line\nbreak.txt", b"latin\xe9.txt"):
        (folder / "train/cat" / os.fsdecode(name)).touch()
    _, lines = _said(folder)
    assert lines[0].endswith(r"not read: .txt: 2 ('cat/latin\udce9.txt', 'cat/line\nbreak.txt')")


def test_links_are_followed(folder):
    (folder / "elsewhere").mkdir()
    _save(folder / "elsewhere/z.png", 9)
    (folder / "train/cat/linked").symlink_to(folder / "elsewhere")
    (folder / "train/dog/linked.png").symlink_to(folder / "elsewhere/z.png")
    names = [path.name for path in open_source(str(folder), "train").files]
    assert names == ["y.png", "z.png", "w.webp", "x.PNG", "a.bmp", "b.png", "linked.png"]


def test_class_without_images_keeps_its_label(folder):
    for split in ("train", "test"):
        (folder / split / "cow").mkdir()
    (folder / "train/cow/x.heic").write_bytes(b"")
    source, lines = _said(folder)
    assert source.class_names == ("cat", "cow", "dog")
    assert set(source.labels) == {0, 2}
    assert lines[0].endswith("5 images; not read: .heic: 1 (cow/x.heic); classes without an image: 1 (cow)"), lines


def test_no_image_at_all(folder):
    (folder / "dev/cat").mkdir(parents=True)
    (folder / "dev/dog").mkdir()
    (folder / "dev/cat/a.heic").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"dev: got no image in 2 class folders; not read: .heic: 1 .*; expected <class>"
    ):
        open_source(str(folder), "dev")


def test_classes_differ_between_splits(folder):
    (folder / "test/emu").mkdir()
    message = (
        r"pets: train and test differ in their classes: only test has emu\. Labels count .* an empty folder will do$"
    )
    with pytest.raises(ValueError, match=message):
        open_source(str(folder), "train")
    (folder / "train/emu").mkdir()  # as it is advised
    with pytest.warns(ImageWarning, match=r"classes without an image: 1 \(emu\)"):
        assert open_source(str(folder), "train").num_classes == 3
    (folder / "train/emu").rmdir()
    for i in range(4):
        (folder / f"train/c{i}").mkdir()
    with pytest.raises(ValueError, match=r"only train has c0, c1, c2, 1 more; only test has emu\."):
        open_source(str(folder), "train")


def test_split_without_class_folders_has_no_classes_to_differ_in(folder):
    shutil.rmtree(folder / "test")
    _save(folder / "test/0001.png")
    assert len(open_source(str(folder), "train")) == 5


@pytest.mark.parametrize(
    ("names", "natural"),
    [(("1", "10", "2"), ("1", "2", "10")), (("Cat", "ant"), ("ant", "Cat")), (("a10b", "a9"), ("a9", "a10b"))],
)
def test_order_of_the_labels(names, natural, tmp_path):
    root = tmp_path / "pets"
    for name in names:
        _save(root / "train" / name / "x.png")
    source, lines = _said(root)
    assert source.class_names == names
    assert len(lines) == 1
    assert f"label {next(i for i in range(9) if names[i] != natural[i])} is taken for " in lines[0]
    assert "class_order 'natural' (timm) or 'sorted' ends this warning" in lines[0]
    for order, expected in (("sorted", names), ("natural", natural)):  # as it is advised, without a warning
        source = open_source(str(root), "train", folder=FolderOptions(class_order=order))
        assert source.class_names == expected
        assert [path.parent.name for path in source.files] == list(expected)


def test_folder_errors(folder, tmp_path):
    with pytest.raises(ValueError, match=r"got split 'dev', expected one of its subfolders test, train$"):
        open_source(str(folder), "dev")
    with pytest.raises(ValueError, match=rf"if these are classes, the data is {folder} and 'train' its split$"):
        open_source(str(folder / "train"), "train")
    assert len(open_source(str(folder / "train/.."), "train")) == 5
    with pytest.raises(ValueError, match="nowhere', expected an existing folder"):
        open_source(str(tmp_path / "nowhere"), "train")
    with pytest.raises(ValueError, match=r"^class_order: got 'Natural', expected one of sorted, natural, or none$"):
        FolderOptions(class_order="Natural")  # pyright: ignore[reportArgumentType]


def test_folder_that_may_not_be_read(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"^image folder .*pets: .*cat/deep can't be read: Permission denied$"):
        open_source(str(folder), "train")
