"""Where results go: paths are checked before long work, and what is written takes its place whole or not at all.

A new directory or file is written beside its place, under a hidden name (`.NAME.` and eight hexadecimal digits), synced
to the disk (`fsync`), and then moved. A directory that is replaced is exchanged with the new one in one step where the
system has it (Linux: `renameat2`), so that a reader, or a power cut, finds the old one or the new one; elsewhere by two
renames, the first of which is undone if the second one fails.

A process that is killed leaves its hidden folder. Nothing here removes such a folder, since it may hold what stood in
the place before, or belong to a process that still runs: the next one that writes to the same place names it in a
`LeftoverWarning`. Links are followed: what is replaced is what a link points to, and the link stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

_RENAME_EXCHANGE = 2
_CURRENT_DIRECTORY = -100
_NEW, _OLD = "new", "old"


class LeftoverWarning(UserWarning):
    """A hidden folder of a process that was killed lies beside the place that is written to."""


def resolved(path: str | Path) -> Path:
    """The absolute path without links, `.` and `..`.

    Raises:
        ValueError: A link to something that isn't there: what it points to may be on a disk that isn't mounted.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path}: is a link to {path.readlink()}, which isn't there; make that or remove the link")
    return Path(os.path.realpath(path))


def check_directory(path: str | Path) -> None:
    """Checks, before long work, that a directory is there or can be made, and that it can be written to.

    Raises:
        ValueError: A file is in the way, or something can't be written to; names it.
    """
    target = resolved(path)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{path}: is a file, expected a directory")
    _check_writable(path, target)


def check_file(path: str | Path | None) -> None:
    """Checks, before long work, that a file can be written; None is none.

    Raises:
        ValueError: It is a directory, or something can't be written to; names it.
    """
    if path is None or _is_device(path):
        return
    target = resolved(path)
    if target.is_dir():
        raise ValueError(f"{path}: is a directory, expected a file to write")
    if target.exists() and not os.access(target, os.W_OK):
        raise ValueError(f"{path}: can't be written to: Permission denied")
    _check_writable(path, target.parent)


def check_new(path: str | Path) -> None:
    """Checks, before long work, that nothing is in a place where a directory is to be made.

    Raises:
        ValueError: Something is, or it can't be made; names what is in the way.
    """
    check_directory(path)
    if Path(path).exists():
        raise ValueError(f"{path}: exists; choose another directory")


def check_apart(target: str | Path, source: str | Path) -> None:
    """Checks that writing to a place doesn't replace what is read.

    Raises:
        ValueError: The target is the source, or holds it.
    """
    to, of = resolved(target), Path(os.path.realpath(source))
    if of.exists() and (to == of or to in of.parents):
        what = "is the source itself" if to == of else f"holds the source, {source}"
        raise ValueError(f"{target}: {what}; choose another place to write to")


def check_replaceable(path: str | Path) -> None:
    """Checks that a directory that is there can be exchanged with another one.

    Raises:
        ValueError: This process is working in it, or something is mounted there.
    """
    target = resolved(path)
    with contextlib.suppress(FileNotFoundError):  # a working directory that somebody removed
        here = Path.cwd()
        if target == here or target in here.parents:
            what = "is the working directory" if target == here else "holds the working directory"
            raise ValueError(f"{path}: {what} and can't be replaced; run this from {target.parent}, or choose another")
    if target.is_mount():
        raise ValueError(f"{path}: is a mount point and can't be replaced; choose a directory in it")


@contextlib.contextmanager
def whole_directory(path: str | Path, *, replaced: Collection[str] = ()) -> Iterator[Path]:
    """A new directory to write in, which takes its place when the block ends without an error.

    Args:
        path: The place; the directories above it are made.
        replaced: Names of what goes with an older directory there, beside what the new one has under the same name.
            Everything else in the older one is kept: it is moved to the new one right after the exchange.

    Raises:
        ValueError: The place can't be replaced (`check_replaceable`).
        OSError: The disk refuses.
    """
    target = resolved(path)
    scratch = _scratch(target)
    new = scratch / _NEW
    new.mkdir()
    number, gone = new.stat().st_ino, None
    try:
        yield new
        _sync_tree(new)
        if target.exists():
            check_replaceable(path)
            shutil.copymode(target, new)
            names = {child.name for child in new.iterdir()} | set(replaced)
            _exchange(new, target)
            gone = names
        else:
            new.rename(target)
    except BaseException:
        # Whenever an interrupt came: what stood in the place, and has somebody's files, isn't removed.
        if not (scratch / _OLD).exists() and (not new.exists() or new.stat().st_ino == number):
            _remove(scratch)
        raise
    if gone is not None:
        _move_rest(new, target, but=gone)
    _sync(target.parent)
    _remove(scratch)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A new file to write, which takes its place, and that of an older one there, when the block ends without an error.

    Args:
        path: The place; the directories above it are made.

    Raises:
        ValueError: A directory is there.
        OSError: The disk refuses.
    """
    check_file(path)
    target = resolved(path)
    scratch = _scratch(target)
    new = scratch / _NEW
    try:
        yield new
        _sync(new)
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)
        _sync(target.parent)
    finally:
        _remove(scratch)


def write_text(path: str | Path, text: str) -> None:
    """Writes a small file, whole or not at all; to what is no regular file, such as `/dev/stdout`, as it is.

    A killed process leaves `.NAME.tmp`, which the next one overwrites.

    Args:
        path: The place; the directories above it are made.
        text: The text, which becomes UTF-8.

    Raises:
        ValueError: A directory is there.
        OSError: The disk refuses.
    """
    if _is_device(path):
        Path(path).write_text(text, encoding="utf-8")
        return
    check_file(path)
    target = resolved(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.tmp")
    new.write_text(text, encoding="utf-8")
    _sync(new)
    new.replace(target)
    _sync(target.parent)


def sync(directory: Path) -> None:
    """Brings a directory and all that is in it to the disk, so that a later rename can't come before its content."""
    _sync_tree(directory)


def leftovers(path: str | Path) -> list[Path]:
    """The hidden folders beside a place that processes left there, or still write in."""
    target = resolved(path)
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}")
    if not target.parent.is_dir():
        return []
    with os.scandir(target.parent) as entries:
        return sorted(Path(entry.path) for entry in entries if pattern.fullmatch(entry.name) and entry.is_dir())


def _warn_of_leftovers(target: Path) -> None:
    found = leftovers(target)
    if not found:
        return
    text = f"{target}: left by a process that was killed, or is still writing: {', '.join(map(str, found[:8]))}"
    text += f" and {len(found) - 8} more" if len(found) > 8 else ""
    moved = [folder / _OLD for folder in found if (folder / _OLD).exists()]
    if moved and not target.exists():
        text += f"; what stood there is {moved[0]}: move it back"
    else:
        text += "; remove it if nothing writes there any more"
    warnings.warn(text, LeftoverWarning, stacklevel=5)


def _scratch(target: Path) -> Path:
    """A new hidden folder beside a place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _warn_of_leftovers(target)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    scratch.mkdir()
    return scratch


def _remove(scratch: Path) -> None:
    # What can't be removed, such as a file that a network disk still holds, is named by the next one.
    shutil.rmtree(scratch, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Swaps two directories of one folder's."""
    if _exchanged_at_once(one, other):
        return
    aside = one.with_name(_OLD)
    other.rename(aside)
    try:
        one.rename(other)
    except BaseException:
        aside.rename(other)
        raise
    aside.rename(one)


def _exchanged_at_once(one: Path, other: Path) -> bool:
    """Swaps two paths in one step, if the system and the file system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no such function, or no such library
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    return not renameat2(_CURRENT_DIRECTORY, paths[0], _CURRENT_DIRECTORY, paths[1], _RENAME_EXCHANGE)


def _move_rest(old: Path, new: Path, *, but: Collection[str]) -> None:
    """Moves what isn't replaced, whenever it got there; what can't be moved stays and is named."""
    for child in list(old.iterdir()):
        if child.name not in but:
            try:
                child.rename(new / child.name)
            except OSError as error:
                text = f"{error.strerror}; {new} is written, and what else was there is in {old}"
                raise OSError(error.errno, text, str(child)) from None


def _is_device(path: str | Path) -> bool:
    """Whether a path is neither a file nor a directory, such as `/dev/stdout`: there is nothing to replace."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def _check_writable(path: str | Path, directory: Path) -> None:
    """Tries to write in a directory, or in the nearest one above it that is there."""
    while not directory.exists():
        directory = directory.parent
    if not directory.is_dir():
        raise ValueError(f"{path}: {directory} is a file, expected a directory")
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(f"{path}: can't write in {directory}: {error.strerror}") from None


def _sync_tree(directory: Path) -> None:
    for folder, _, files in os.walk(directory, topdown=False):
        for file in files:
            _sync(Path(folder, file))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    """Brings a file, or the names in a directory, to the disk."""
    if path.is_dir() and os.name == "nt":  # has no way to
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network disks can't sync names
            raise
    finally:
        os.close(descriptor)
