"""JSON documents beside tensors: a broken one is called broken, with its name, wherever it is read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.containers.document import MAX_BYTES, find_json, read_json

TEXT = '{"model_type": "vit", "name": "é", "x": [1, 2]}'
CUT = TEXT.encode()[:-6]
BROKEN = {
    "empty": (b"", r"not JSON: the file is empty"),
    "blank": (b" \n", r"not JSON: the file is empty"),
    "cut off": (CUT, r"not JSON: cut off in line 1, column 42"),
    "cut off in a string": (b'{"a": 1,\n"b', r"not JSON: cut off in line 2, column 1: Unterminated string"),
    "broken": (b'{"a": 1,\n "b": tru, "c": 2}', r"not JSON: broken in line 2, column 7: Expecting value"),
    "single quotes": (b"{'a': 1}", r"not JSON: broken in line 1, column 2: Expecting property name"),
    "UTF-16 with a mark": (TEXT.encode("utf-16"), r"not JSON: UTF-16 text, expected UTF-8; save it as UTF-8"),
    "UTF-16": (TEXT.encode("utf-16-le"), r"not JSON: UTF-16 text"),
    "UTF-32": (TEXT.encode("utf-32"), r"not JSON: UTF-32 text"),
    "latin-1": (TEXT.encode("latin-1"), r"not JSON: byte 0xe9 at position 31 is no UTF-8 text"),
    "binary": (b"\x80\x02}q\x00.", r"not JSON: byte 0x80 at position 0 is no UTF-8 text"),
    "twice": (b'{"a": 1, "a": 2}', r"not JSON: the key 'a' is there twice"),
    "deep": (b'{"a":' * 100_000, r"not JSON: lists and objects in one another too deeply"),
    "long number": (b'{"a": ' + b"1" * 5000 + b"}", r"not JSON: Exceeds the limit"),
    "list": (b"[]", r"got a list, expected a JSON object"),
    "string": (b'"vit"', r"got a string, expected a JSON object"),
    "null": (b"null", r"got null, expected a JSON object"),
    "number": (b"NaN", r"got a number, expected a JSON object"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_document_says_how(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    for read in (read_json, find_json):
        with pytest.raises(CheckpointError, match=rf"^{file}: {message}"):
            read(file)


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json"])
def test_a_directory_with_a_broken_document_isnt_called_unknown(tmp_path, name):
    (tmp_path / name).write_bytes(CUT)
    with pytest.raises(CheckpointError, match=rf"{name}: not JSON: cut off in line 1"):
        open_checkpoint(tmp_path)


def test_what_is_read(tmp_path):
    file = tmp_path / "config.json"
    for text in (TEXT.encode(), TEXT.encode("utf-8-sig"), json.dumps(json.loads(TEXT)).encode()):
        file.write_bytes(text)
        assert read_json(file) == json.loads(TEXT)
    file.write_text('{"a": NaN}')
    assert read_json(file)["a"] != 0
    assert find_json(tmp_path / "none.json") == {}
    with pytest.raises(CheckpointError, match=r"none\.json: no such file$"):
        read_json(tmp_path / "none.json")


def test_gigabytes_are_not_read(tmp_path):
    file = tmp_path / "config.json"
    with file.open("wb") as opened:
        opened.write(b'{"a": "')
        opened.truncate(4 * 2**30)
    started = time.perf_counter()
    message = r"config\.json: got 4,294,967,296 bytes, expected at most 16,777,216 of a JSON document; it isn't read"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)
    assert time.perf_counter() - started < 5
    file.write_bytes(b'{"a": "' + b"x" * (MAX_BYTES - 9) + b'"}')
    assert len(read_json(file)["a"]) == MAX_BYTES - 9


def test_what_is_no_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("config.json", "pipe.json"):
        with pytest.raises(CheckpointError, match=rf"{name}: is no regular file, expected a JSON document"):
            read_json(tmp_path / name)


def test_a_directory_of_many_files_is_cut(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number:05}.txt").touch()
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(tmp_path)
    assert ".txt" in str(raised.value)
    assert len(str(raised.value)) < 600


def test_an_error_of_the_disk_is_named(tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    file.write_text("{}")

    def refuses(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(CheckpointError, match=rf"^{file}: Permission denied$"):
        read_json(file)
