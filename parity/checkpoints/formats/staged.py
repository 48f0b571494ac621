"""Tables of names of hierarchies: the entries of all stages that a config may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ...configs.stages import MAX_STAGES
from .translate import Entry

STAGES = range(MAX_STAGES)
Theirs = str | tuple[str, ...]


def prefixed(names: Theirs, prefix: str) -> Theirs:
    """One name or several with something in front."""
    return prefix + names if isinstance(names, str) else tuple(prefix + name for name in names)


def block_entries(
    ours: Callable[[int], str], theirs: Callable[[int], str], names: Mapping[str, Theirs]
) -> Iterator[Entry]:
    """Entries of what is in the blocks of all stages.

    Args:
        ours: What names of a stage's blocks begin with here, with `{i}` for the block.
        theirs: The same there.
        names: Theirs by ours, of what is in a block.
    """
    for stage in STAGES:
        for own, other in names.items():
            yield Entry(f"{ours(stage)}.{own}", prefixed(other, f"{theirs(stage)}."))
