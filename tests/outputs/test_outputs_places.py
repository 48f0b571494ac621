"""Places that results go to: refused in one line before long work, or replaced without losing anybody's files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity import outputs

AT_ONCE = outputs._exchanged_at_once


@pytest.fixture(params=["exchange", "two renames"])
def system(request, monkeypatch):
    """With and without the system's own exchange of two directories."""
    if request.param == "two renames":
        monkeypatch.setattr(outputs, "_exchanged_at_once", lambda one, other: False)
    return request.param


def write(path: Path, content: str = "new", **options) -> None:
    with outputs.whole_directory(path, **options) as new:
        (new / "a").write_text(content)


def test_this_system_exchanges_at_once(tmp_path):
    """The tests that patch it away test another thing, then."""
    if sys.platform != "linux":
        pytest.skip("Linux has renameat2")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert AT_ONCE(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "file").read_text() for name in "ab"] == ["b", "a"]
    assert not AT_ONCE(tmp_path / "a", tmp_path / "missing")


def test_what_others_put_there_is_kept(tmp_path, system):
    target = tmp_path / "model"
    write(target, "old")
    (target / "b").write_text("goes with it")
    (target / "notes.txt").write_text("mine")
    (target / "logs").mkdir()
    (target / "logs" / "x").write_text("mine, too")
    (target / "link").symlink_to("nowhere")
    target.chmod(0o750)
    write(target, replaced=["b"])
    assert sorted(path.name for path in target.iterdir()) == ["a", "link", "logs", "notes.txt"]
    assert (target / "a").read_text() == "new"
    assert (target / "notes.txt").read_text() == "mine"
    assert (target / "logs" / "x").read_text() == "mine, too"
    assert (target / "link").readlink() == Path("nowhere")
    assert target.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_that_comes_while_we_write_is_kept(tmp_path, system):
    write(tmp_path / "model", "old")
    with outputs.whole_directory(tmp_path / "model") as new:
        (new / "a").write_text("new")
        (tmp_path / "model" / "late.txt").write_text("mine")
    assert (tmp_path / "model" / "late.txt").read_text() == "mine"


def test_what_cant_be_moved_back_is_named_and_stays(tmp_path, system, monkeypatch):
    target = tmp_path / "model"
    write(target, "old")
    (target / "notes.txt").write_text("mine")
    rename = Path.rename

    def fails(self, to):
        if self.name == "notes.txt":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        with pytest.raises(OSError, match=r"Permission denied; .*model is written, and what else was there is in"):
            write(target)
    (left,) = outputs.leftovers(target)
    assert (left / "new" / "notes.txt").read_text() == "mine"
    assert (target / "a").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_what_was_there(tmp_path, system, error):
    def breaks(target: Path) -> None:
        with outputs.whole_directory(target) as new:
            (new / "a").write_text("half")
            raise error

    write(tmp_path / "model", "old")
    for name in ("model", "fresh"):
        with pytest.raises(error):
            breaks(tmp_path / name)
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


KILLED = """
import os, signal
from pathlib import Path
from parity import outputs
moment, seen = {moment}, 0

def dying(function):
    def operation(*arguments, **options):
        global seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return operation

if {renames}:
    outputs._exchanged_at_once = lambda one, other: False
for owner, name in ((Path, "rename"), (outputs, "_exchanged_at_once"), (outputs, "_sync"), (outputs, "_remove")):
    setattr(owner, name, dying(getattr(owner, name)))
with outputs.whole_directory(Path({target!r})) as new:
    (new / "a").write_text("new")
print("done")
"""


@pytest.mark.parametrize("renames", [False, True], ids=["exchange", "two renames"])
def test_killed_at_any_moment(tmp_path, renames):
    """The place holds the old or the new directory, or the note says where the old one is; nobody's file is lost."""
    for moment in range(1, 20):
        target = tmp_path / str(moment) / "model"
        write(target, "old")
        (target / "notes.txt").write_text("mine")
        code = KILLED.format(moment=moment, renames=renames, target=str(target))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout == "done\n":
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        (left,) = outputs.leftovers(target)
        kept = [file.read_text() for file in target.parent.rglob("notes.txt")]
        assert kept == ["mine"]
        if target.exists():
            assert (target / "a").read_text() in ("old", "new")
            advice = "remove it if nothing writes there any more"
        else:
            assert renames
            advice = f"what stood there is {left / 'old'}: move it back"
            assert (left / "old" / "a").read_text() == "old"
        with pytest.warns(outputs.LeftoverWarning, match=rf"model: left by a process .*: {left}; {advice}"):
            write(target, "next")
        assert (target / "a").read_text() == "next"
        assert left.exists()
    assert moment > 5


def test_a_kill_keeps_the_old_file(tmp_path):
    target = tmp_path / "x.npz"
    target.write_text("old")
    code = (
        "import os, signal\nfrom parity import outputs\n"
        f"with outputs.whole_file({str(target)!r}) as new:\n"
        "    new.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert target.read_text() == "old"
    with pytest.warns(outputs.LeftoverWarning, match="x.npz: left by"), outputs.whole_file(target) as new:
        new.write_text("whole")
    assert target.read_text() == "whole"


def test_links_are_followed_and_stay(tmp_path, system):
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "model", "old")
    (tmp_path / "link").symlink_to("disk/model")
    (tmp_path / "door").symlink_to("disk")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "model" / "a").read_text() == "new"
    write(tmp_path / "door" / "model", "newer")
    assert (tmp_path / "disk" / "model" / "a").read_text() == "newer"
    (tmp_path / "lost").symlink_to("/no/such/disk")
    for check in (outputs.check_directory, outputs.check_file, outputs.check_new, write):
        with pytest.raises(ValueError, match=r"lost: is a link to /no/such/disk, which isn't there; make that"):
            check(tmp_path / "lost")


def test_relative_paths(tmp_path, monkeypatch, system):
    monkeypatch.chdir(tmp_path)
    write(Path("model/"), "old")
    write(Path("./sub/../model"), "new")
    assert (tmp_path / "model" / "a").read_text() == "new"
    (tmp_path / "model" / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "model" / "deep")
    for path, message in (("..", "holds the working directory"), (".", "is the working directory")):
        with pytest.raises(ValueError, match=rf"^{path}: {message} and can't be replaced; run this from "):
            write(Path(path))
    write(Path("../deep/made"))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["a", "deep"]


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    write(tmp_path / "model", "old")
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    write(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "new"


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "disk", "old")
    monkeypatch.setattr(Path, "is_mount", lambda self: self == tmp_path / "disk")
    with pytest.raises(ValueError, match=r"disk: is a mount point and can't be replaced; choose a directory in it"):
        write(tmp_path / "disk")
    write(tmp_path / "disk" / "model")


def test_places_that_nothing_can_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    cases = [
        (outputs.check_directory, "file", r"file: is a file, expected a directory"),
        (outputs.check_directory, "file/sub", r"file/sub: .*/file is a file, expected a directory"),
        (outputs.check_file, ".", r": is a directory, expected a file to write"),
        (outputs.check_file, "file/x.json", r"file/x\.json: .*/file is a file, expected a directory"),
        (outputs.check_new, "file", r"file: is a file, expected a directory"),
        (outputs.check_new, ".", r": exists; choose another directory"),
    ]
    for check, name, message in cases:
        with pytest.raises(ValueError, match=message):
            check(tmp_path / name)
    for name in ("new/deep/x.json", "file"):
        outputs.check_file(tmp_path / name)
    outputs.check_file(None)
    outputs.check_directory(tmp_path / "new" / "deep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def refuses(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuses)
    for check in (outputs.check_directory, outputs.check_file, outputs.check_new):
        with pytest.raises(ValueError, match=rf"x: can't write in {tmp_path}: Read-only file system"):
            check(tmp_path / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="to root nothing is read-only")
def test_a_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"can't write in .*: Permission denied"):
        outputs.check_file(tmp_path / "x")


def test_the_source_is_not_replaced(tmp_path):
    (tmp_path / "x" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("x")
    for target, source in (("x", "x"), ("x", "link"), ("link", "x/"), ("x/../x", "x")):
        with pytest.raises(ValueError, match=r"is the source itself; choose another place"):
            outputs.check_apart(tmp_path / target, tmp_path / source)
    with pytest.raises(ValueError, match=r"x: holds the source, .*x/sub; choose another place"):
        outputs.check_apart(tmp_path / "x", tmp_path / "x" / "sub")
    outputs.check_apart(tmp_path / "x" / "sub" / "y", tmp_path / "x")
    outputs.check_apart(tmp_path / "x", "hf-hub:owner/name")


def test_small_files(tmp_path, capfd):
    outputs.write_text(tmp_path / "new" / "x.json", "é")
    outputs.write_text(tmp_path / "new" / "x.json", "ü")
    assert [(path.name, path.read_text("utf-8")) for path in (tmp_path / "new").iterdir()] == [("x.json", "ü")]
    outputs.check_file("/dev/stdout")
    outputs.write_text("/dev/null", "nothing")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(ValueError, match="is a directory, expected a file"):
        outputs.write_text(tmp_path / "new", "x")
