"""Nothing is skipped in silence: every tensor of a source is used, every tensor of a target is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]

_SHOWN = 20
# What an advice about unexpected tensors has where patterns of them go, and of how many it is given them.
_PATTERN = "--ignore PATTERN"
_FEW = 4
# Between the lines of a report in an error.
LINES = "\n  "


class CheckpointError(ValueError):
    """A file that is not the checkpoint it should be; the message names the file and the tensors."""


def cut(items: Sequence[str], *, between: str = ", ") -> str:
    """Items one after another; of many, the first ones and how many more there are."""
    more = [f"... and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return between.join([*items[:_SHOWN], *more])


def account(
    expected: Mapping[str, Shape],
    found: Mapping[str, Shape],
    *,
    source: str,
    called: Callable[[str], str] = str,
    unread: Mapping[str, str] | None = None,
    advice: str = "",
) -> None:
    """Holds the tensors of a source against those that a model has.

    Args:
        expected: Shape of each tensor of the model, by name.
        found: Shape of each tensor of the source, by name.
        source: What to call the source.
        called: What a tensor is called there.
        unread: Why something there was left out, by what it is called.
        advice: What to do about unexpected ones; `--ignore PATTERN` is given its patterns, and isn't said where more
            is wrong than that.

    Raises:
        CheckpointError: Any is missing, unexpected or misshapen; all of them are in one report.
    """
    whys = {name: f": {why}" for name, why in (unread or {}).items()}
    missing = {called(name): shape for name, shape in expected.items() if name not in found}
    problems = [f"missing {name} {list(shape)}{whys.get(name, '')}" for name, shape in missing.items()]
    layers = {name.rpartition(".")[0]: f"; {name}{why}" for name, why in whys.items()}
    unexpected = {called(name): shape for name, shape in found.items() if name not in expected}
    problems += [
        f"unexpected {name} {list(shape)}{layers.get(name.rpartition('.')[0], '')}"
        for name, shape in unexpected.items()
    ]
    problems += [
        f"misshapen {called(name)}: got {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if problems:
        what = f"{len(problems)} of {len(expected)} expected tensors don't fit"
        if _PATTERN in advice:
            ignoring = _ignoring(unexpected, map(called, expected)) if len(unexpected) == len(problems) else ""
            advice = advice.replace(_PATTERN, ignoring) if ignoring else ""
        hint = f"\n{advice}" if advice and unexpected else ""
        raise CheckpointError(f"{source}: {what}\n  {cut(problems, between=LINES)}{hint}")


def _ignoring(unexpected: Iterable[str], expected: Iterable[str]) -> str:
    """Flags that leave tensors out: each pattern the widest that takes nothing else, if they are few.

    None where some are within the model's blocks, whose outputs then would be others.
    """
    parts = {name[:place] for name in expected for place in range(1, len(name)) if name[place - 1] == "."}
    found = {}
    for name in unexpected:
        ours = max((part for part in parts if name.startswith(part)), key=len, default="")
        if re.search(r"\.\d+\.", ours):  # beside the layers of a block: not doing it gives another model's outputs
            return ""
        wide = re.match(r"[^.]*\.(?=.)", name[len(ours) :])
        found[f"{ours}{wide.group()}*" if wide else name] = None
    return " ".join(f"--ignore '{pattern}'" for pattern in found) if len(found) <= _FEW else _PATTERN


def expect_floats(dtypes: Mapping[str, np.dtype], *, source: str) -> None:
    """Holds the types of a model's tensors against what a model can be made of.

    Args:
        dtypes: The type of each tensor of the model, by name.
        source: What to call where they come from.

    Raises:
        CheckpointError: Any is no floating-point type; all of them are in one report.
    """
    # NumPy counts its own types alone as floating; bfloat16 and float8 are of `ml_dtypes`.
    wrong = [f"{name}: got {dtype}" for name, dtype in dtypes.items() if "float" not in dtype.name]
    if wrong:
        raise CheckpointError(f"{source}: expected floating-point numbers\n  {cut(wrong, between=LINES)}")
