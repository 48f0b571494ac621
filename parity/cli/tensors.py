"""`vit-parity tensors`: what two files of tensors have in common, whatever they are tensors of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from .. import configs, outputs
from .common import escaped, print_rich

if TYPE_CHECKING:
    from rich.table import Table

    from ..checkpoints.comparison import TensorDifference, TensorsComparison
    from ..checkpoints.containers.stored import FileTensors, Shape

# Rows of a table that a terminal is given without --all.
ROWS = 40


def tensors(
    left: Positional[str],
    right: Positional[str | None] = None,
    *,
    prefix: str = "",
    left_prefix: str | None = None,
    right_prefix: str | None = None,
    match: str = "*",
    rename: UseAppendAction[tuple[tuple[str, str], ...]] = (),
    tolerance: float | None = None,
    all_: Annotated[bool, arg(name="all"), FlagCreatePairsOff] = False,
    json: Path | None = None,
) -> int:
    """Hold the tensors of two files against each other, or list those of one; exits with 1 unless all are equal.

    No model is needed: a file is any container of tensors (.safetensors, .bin, .pt, .pth, .npz, msgpack), a directory
    or an index of shards, or hf-hub:owner/name, and names are as they are in it. Of two files, it says which tensors
    are on one side alone, have another shape or type, and differ, by how much and where. Tensors are equal bit for bit;
    NaN is equal to NaN in the same place. Differences are in float64, relative to the right side.

    Args:
        left: One file or directory.
        right: The other; without it, each tensor of the first is listed with its type, shape, mean and spread.
        prefix: Compare what has names that begin with this, such as model., by the rest of the name; on both sides.
        left_prefix: Another prefix for the left side; '' for none.
        right_prefix: Another prefix for the right side; '' for none.
        match: Compare names that match this, shell-style, such as 'blocks.*.attn.*'; without their prefix.
        rename: A regular expression and what replaces it in the names of the left side, after its prefix; repeatable.
        tolerance: Relative L2 up to which values count as equal, whatever their type; by default bits and types count.
        all_: List every tensor, equal ones too; by default equal ones are counted, and alike ones are one row.
        json: Also write the figures of every tensor to this file.
    """
    from ..checkpoints.comparison import compare_tensors
    from ..checkpoints.containers.progress import progress_bar

    outputs.check_file(json)
    of_left = _open(left, prefix if left_prefix is None else left_prefix, match, rename)
    if right is None:
        if tolerance is not None or right_prefix is not None:
            raise ValueError(f"--{'right-prefix' if tolerance is None else 'tolerance'}: compares, so name two files")
        return _list(of_left, match, json)
    sides = of_left, _open(right, prefix if right_prefix is None else right_prefix, match)
    _expect_match(match, *sides)
    with progress_bar("Comparing") as progress:
        found = compare_tensors(*(side.chosen for side in sides), tolerance=tolerance, progress=progress)
    for name, side in zip(("left", "right"), sides, strict=True):
        print_rich(escaped(f"{name + ':':6} {side}"))
    if rows := [(one,) for one in found.differences] if all_ else _groups(found):
        print_rich(_comparison_table(rows, None if all_ else ROWS))
    for line in _remarks(found, *sides):
        print_rich(escaped(line))
    if json is not None:
        _write_json(json, {"left": left, "right": right, **found.to_dict()})
    return 0 if found.equal else 1


@dataclass(frozen=True)
class _Side:
    """A file and what of it is looked at.

    Attributes:
        target: The file as the user named it.
        total: Tensors in it.
        named: The tensors under the prefix, by the names to compare them by.
        chosen: Those of them that match the pattern.
    """

    target: str
    total: int
    named: FileTensors
    chosen: FileTensors

    def __str__(self) -> str:
        """Its name, and how much of it is looked at."""
        arrays = self.chosen.arrays.values()
        elements = sum(math.prod(array.shape) for array in arrays)
        size = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays) / 1e6
        of = "" if len(arrays) == self.total else f" of {self.total}"
        return f"{self.target}: {len(arrays)}{of} tensors, {elements:,} elements, {size:,.1f} MB"


def _list(side: _Side, match: str, json: Path | None) -> int:
    """Lists the tensors of one file."""
    from rich.table import Table

    from ..checkpoints.containers.progress import progress_bar
    from ..checkpoints.statistics import statistics_of

    _expect_match(match, side)
    table = Table(box=None, header_style="bold")
    table.add_column("tensor", overflow="fold")
    for column in ("type", "shape", "mean", "std", "NaN", "infinite"):
        table.add_column(column, justify="left" if column == "type" else "right")
    with progress_bar("Reading") as progress:
        found = list(statistics_of(side.chosen, progress=progress))
    for one in found:
        counts = (f"{count:,}" if count else "" for count in (one.nan, one.infinite))
        table.add_row(escaped(one.name), one.dtype, _shape(one.shape), f"{one.mean:.4g}", f"{one.std:.4g}", *counts)
    print_rich(table)
    print_rich(escaped(side))
    if side.named.ignored:
        print_rich(escaped(f"no tensors: {_some(list(side.named.ignored))}"))
    if json is not None:
        _write_json(json, {"path": side.target, "tensors": [one.to_dict() for one in found]})
    return 0


def _open(target: str, prefix: str, match: str, rename: Sequence[tuple[str, str]] = ()) -> _Side:
    from ..checkpoints.containers.tensors import open_tensors
    from ..checkpoints.formats import hub

    opened = open_tensors(hub.download(target) if target.startswith(hub.PREFIX) else target)
    if not opened:
        raise ValueError(f"{target}: got a file without tensors, expected some to compare or list")
    named = opened.under(prefix) if prefix else opened
    arrays: dict[str, Any] = {}
    for old, array in named.arrays.items():
        new = old
        for pattern, replacement in rename:
            try:
                new = re.sub(pattern, replacement, new)
            except (re.error, IndexError) as error:
                raise ValueError(f"--rename {pattern!r} {replacement!r}: {error}") from None
        if new in arrays:
            got = f"got {new!r} for two tensors, {old!r} the second, expected a name for each"
            raise ValueError(f"{target}: --rename: {got}")
        arrays[new] = array
    chosen = {name: array for name, array in arrays.items() if fnmatchcase(name, match)}
    return _Side(target, len(opened), replace(named, arrays=arrays), replace(named, arrays=chosen))


def _expect_match(pattern: str, *sides: _Side) -> None:
    """Raises ValueError if no tensor of any side matches the pattern: of nothing, nothing can be said."""
    if not any(side.chosen for side in sides):
        names = [name for side in sides for name in side.named]
        near = configs.close_match(pattern, names) or f"; there are {_some(names)}"
        raise ValueError(f"--match {pattern!r}: no tensor has such a name{near}")


def _comparison_table(groups: Sequence[Sequence[TensorDifference]], limit: int | None) -> Table:
    """A row for each group, or for the first ones."""
    from rich.table import Table

    table = Table("", box=None, header_style="bold")
    for column in ("tensor", "count", "shape", "type", "relative L2", "max abs", "at", "remark"):
        is_number = column in ("count", "relative L2", "max abs")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for group in groups[:limit]:
        table.add_row(*map(escaped, _row(group)))
    if limit is not None and limit < len(groups):
        table.caption = f"the first {limit} of {len(groups)} rows; --all lists every tensor"
    return table


def _groups(found: TensorsComparison) -> list[list[TensorDifference]]:
    """Unequal tensors whose names differ in numbers alone and which are in the same case; the worst ones first."""
    from ..checkpoints.comparison import EQUAL
    from ..checkpoints.name_groups import skeleton

    groups: dict[Any, list[TensorDifference]] = {}
    for one in found.differences:
        if one.kind not in EQUAL:
            groups.setdefault((one.kind, skeleton(one.name), one.shapes, one.dtypes), []).append(one)
    return list(groups.values())


def _row(group: Sequence[TensorDifference]) -> tuple[str, ...]:
    """The cells of a group, which is sorted by how much."""
    from ..checkpoints.comparison import remark
    from ..checkpoints.name_groups import group_name, varying

    worst, names = group[0], [one.name for one in group]
    shapes = (None if shape is None else _shape(shape) for shape in worst.shapes)
    cells = (worst.kind, group_name(names), str(len(group)), _both(*shapes), _both(*worst.dtypes))
    if not worst.is_measured:
        return (*cells, "", "", "", "")
    least, most = f"{group[-1].relative_l2:.1e}", f"{worst.relative_l2:.1e}"
    largest = max(group, key=lambda one: one.max_abs)
    place = "" if largest.index is None else f"{varying(largest.name, names)}[{', '.join(map(str, largest.index))}]"
    sizes = (most if least == most else f"{least} to {most}", f"{largest.max_abs:.1e}")
    return (*cells, *sizes, place, remark(group))


def _remarks(found: TensorsComparison, left: _Side, right: _Side) -> list[str]:
    """What the table doesn't say, and the verdict."""
    lines = [
        f"{name}: no tensors, not compared: {_some(list(side.named.ignored))}"
        for name, side in (("left", left), ("right", right))
        if side.named.ignored
    ]
    if nan := [one.name for one in found.differences if any(one.nan) and math.isfinite(one.relative_l2)]:
        lines.append(f"NaN in the same places, which counts as equal: {_some(nan)}")
    counts = {kind: f"{count} {kind}" for kind, count in found.counts.items()}
    if "within tolerance" in counts:
        most = max(one.relative_l2 for one in found.differences if one.kind == "within tolerance")
        counts["within tolerance"] += f" (at most {most:.1e})"
    if "equal" in counts:
        counts["equal"] += " bit for bit"
    lines.append(f"{'equal' if found.equal else 'not equal'}: {', '.join(counts.values())}")
    hint = _prefix_hint(left.named, right.named)
    return [*lines, hint] if hint else lines


def _prefix_hint(left: FileTensors, right: FileTensors) -> str:
    """Advice where one side's names are the other's behind a prefix; empty where no prefix makes more of them meet."""
    from collections import Counter

    shared = most = sum(name in right for name in left)
    advice = ""
    for flag, side, other in (("--left-prefix", left, right), ("--right-prefix", right, left)):
        ends = ((name, separator.end()) for name in side for separator in re.finditer(r"[./]", name))
        found = Counter(name[:end] for name, end in ends if name[end:] in other)
        if (count := max(found.values(), default=0)) > most:
            best = [prefix for prefix in found if found[prefix] == count]
            most, advice = count, f"{flag} {' or '.join(best)}"
    return f"{most} names instead of {shared} are on both sides with {advice}" if advice else ""


def _some(names: Sequence[str], count: int = 5) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _both(left: str | None, right: str | None) -> str:
    """What both sides say, once if it is the same."""
    sides = dict.fromkeys(side for side in (left, right) if side is not None)
    return " -> ".join(sides)


def _write_json(path: Path, value: Any) -> None:
    import json

    outputs.write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
