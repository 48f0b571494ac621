"""Ways to spoil a file."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# Sizes that are wrong, huge, negative, or no sizes.
SIZES = st.one_of(
    st.integers(-2, 30),
    st.sampled_from([2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64, 10**30, -(2**63)]),
    st.sampled_from([1.5, True, None, "3", [], {}]),
)
SHAPES = st.one_of(
    st.lists(SIZES, max_size=5),
    st.sampled_from([[2**20, 2**20], [0, 2**62], [2**31, 2**31, 0], [1] * 40, [10**9, 10**9, 10**9], [65536] * 4]),
    SIZES,
)
JUNK: st.SearchStrategy[Any] = st.one_of(
    SIZES,
    st.sampled_from(["", "x", "F32", "\0", "../../etc/passwd", "a" * 300, float("nan"), float("inf")]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["a", "dtype", "format"]), st.integers(0, 3), max_size=2),
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes after one to three accidents."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "replace", "number", "truncate", "delete", "insert", "repeat", "append"])):
            case "flip" if data:
                data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
            case "replace":
                data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 4 :]
            case "number":
                width = draw(st.sampled_from([2, 4, 8]))
                value = draw(st.sampled_from([0, 1, 255, 2**15, 2**31, 2**32 - 1, 2**62, 2**64 - 1])) % 2 ** (8 * width)
                data = data[:at] + value.to_bytes(width, "little") + data[at + width :]
            case "truncate":
                data = data[:at]
            case "delete":
                data = data[:at] + data[at + draw(st.integers(1, 64)) :]
            case "insert":
                data = data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:]
            case "repeat":
                end = at + draw(st.integers(1, 64))
                data = data[:end] + data[at:]
            case _:
                data = data + draw(st.binary(min_size=1, max_size=16))
    return data


@st.composite
def damaged_json(draw: st.DrawFn, value: Any) -> Any:
    """A JSON document in which one place holds something else, or nothing."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.sampled_from(["into", "into", "into", "drop", "rename", "add"])):
            case "into":
                return {**value, key: draw(damaged_json(value[key]))}
            case "drop":
                return {name: child for name, child in value.items() if name != key}
            case "rename":
                return {name if name != key else f"{name}_": child for name, child in value.items()}
            case _:
                return {**value, draw(st.sampled_from(["extra", "format", "num_classes", "depth"])): draw(JUNK)}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(damaged_json(value[at])), *value[at + 1 :]]
    return draw(JUNK)
