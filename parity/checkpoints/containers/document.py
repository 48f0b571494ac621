"""The JSON documents beside tensors: `config.json` and its like, which anybody may have written or cut off.

One reader for all of them, so that a broken document is called broken, by name, and never taken for none.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ..accounting import CheckpointError
from .stored import short

# The largest published ones, with the names of 21,843 classes, have 2 MB.
MAX_BYTES = 16 * 2**20


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file.

    `NaN` and `Infinity`, which Python writes, are read; a field that needs a number refuses them by name.

    Args:
        file: UTF-8, with a byte-order mark or without.

    Raises:
        CheckpointError: There is no such file; it is larger than `MAX_BYTES` and isn't read; or it isn't JSON, isn't an
            object, or has a key twice. Names the file and says which.
    """
    try:
        if not file.is_file():
            what = "is no regular file, expected a JSON document" if file.exists() else "no such file"
            raise CheckpointError(f"{file}: {what}")
        with file.open("rb") as opened:
            # No more is asked for than there is: memory is taken for all of it.
            data = opened.read(min(file.stat().st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        got = f"got {file.stat().st_size:,} bytes, expected at most {MAX_BYTES:,} of a JSON document"
        raise CheckpointError(f"{file}: {got}; it isn't read")
    try:
        found = _parsed(data)
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from None
    if not isinstance(found, dict):
        kind = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(found), "a number")
        raise CheckpointError(f"{file}: got {kind}, expected a JSON object")
    return found


def find_json(file: Path) -> dict[str, Any]:
    """The object in a file that needn't be there; an empty one then.

    Raises:
        CheckpointError: The same as from `read_json`, but for a file that isn't there.
    """
    return read_json(file) if file.is_file() else {}


def _parsed(data: bytes) -> Any:
    text = _text(data)
    if not text.strip():
        raise ValueError("the file is empty")
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        # What is cut off fails at its very end, or in a string that never ends.
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        what = "cut off" if is_cut else "broken"
        raise ValueError(f"{what} in line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("lists and objects in one another too deeply") from None


def _text(data: bytes) -> str:
    encoding = json.detect_encoding(data)
    if not encoding.startswith("utf-8"):
        raise ValueError(f"{encoding[:6].upper()} text, expected UTF-8; save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        got = f"byte {data[error.start]:#04x} at position {error.start}"
        raise ValueError(f"{got} is no UTF-8 text; save it as UTF-8") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {short(twice)} is there twice")
    return found
