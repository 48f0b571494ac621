"""Many names of tensors as few: those that differ in a number alone, such as that of a block, are one group."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A number between dots or slashes, or at the end of a word between them (`encoderblock_0/`), but not in `gamma_1`.
_NUMBER = re.compile(r"(?<![^./_])\d+(?=[./])|(?<![^./])\d+$")


def skeleton(name: str) -> str:
    """The name without its numbers: names of one group have the same."""
    return _NUMBER.sub("{}", name)


def numbers(name: str) -> list[int]:
    """The numbers of a name, in their order."""
    return list(map(int, _NUMBER.findall(name)))


def group_name(names: Iterable[str]) -> str:
    """One name for a group: `blocks.{0-3,7}.norm1.weight`; a number that all have stays as it is."""
    names = list(names)
    between = _NUMBER.split(names[0])
    columns = [sorted(set(column)) for column in zip(*map(numbers, names), strict=True)]
    texts = [str(column[0]) if len(column) == 1 else f"{{{_ranges(column)}}}" for column in columns]
    return "".join(part + text for part, text in zip(between, [*texts, ""], strict=True))


def varying(name: str, names: Iterable[str]) -> str:
    """The numbers by which one name of a group is told from the others: `{7}`, or nothing."""
    columns = list(zip(*map(numbers, names), strict=True))
    own = [str(number) for number, column in zip(numbers(name), columns, strict=True) if len(set(column)) > 1]
    return f"{{{','.join(own)}}}" if own else ""


def _ranges(found: list[int]) -> str:
    """Ascending numbers as `0-3,7`."""
    starts = [i for i, number in enumerate(found) if not i or number != found[i - 1] + 1]
    runs = [found[i:j] for i, j in zip(starts, [*starts[1:], None], strict=True)]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
