"""Foreign names and layouts, as tables that are read in both directions.

A table lists, for canonical modules and tensors, what another project calls them. Reading asks for each tensor that a
config has and finds where it is kept; writing asks for each tensor that the other project expects and finds what it is
made of. So a table can't skip a tensor: what it doesn't name is an error, with everything that is wrong in one report.

An example: queries, keys and values of a block are one tensor here, and three with other axes in Google's files. The
line of the table is an `Entry`; filled for block 3 of a model 64 wide with 2 heads it is a `FilledEntry`:

    Entry("blocks.{i}.attn.qkv.weight", ("b_{i}/query/kernel", "b_{i}/key/kernel", "b_{i}/value/kernel"),
          "d nh hd -> (nh hd) d")
    FilledEntry("blocks.3.attn.qkv.weight", (192, 64), ("b_3/query/kernel", "b_3/key/kernel", "b_3/value/kernel"), ...)

`Ours` is a file of theirs by our names: asked for `blocks.3.attn.qkv.weight` it reads three tensors (64, 2, 32), brings
each to (64, 64) and puts them one below another. `Theirs` is a model of ours by their names: asked for `b_3/key/kernel`
it takes the rows 64 to 127 of the one tensor and brings them to (64, 2, 32). Neither reads anything before it is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import einops
import numpy as np

from ...configs import Config, VitConfig
from ..accounting import CheckpointError, account
from ..containers.stored import Index
from ..containers.tensors import Tensors, dtypes_of, shapes_of, slice_of
from ..shapes import Shape, parameter_shapes


@dataclass(frozen=True)
class Entry:
    """What one canonical tensor, or all tensors of one canonical module, are called elsewhere.

    Attributes:
        ours: Canonical name of a tensor, or of a module whose tensors have the same last names there. `{i}` stands for
            a number.
        theirs: Their name, with the same placeholders; several where ours is their concatenation over the first axis
            of the canonical layout.
        layout: einops pattern from their axes to ours, if they differ, with axes of the config where one side merges
            them (`nh` heads, `hd` head width, `ph` and `pw` sides of a patch): `"d nh hd -> (nh hd) d"`.
        stacked: Their tensor holds the blocks `{i}` along its first axis, which `layout` doesn't name.
        part: Their tensor is the concatenation of several of ours over the first axis, and this one has the parts from
            the first number up to the second, of as many as the third: `(1, 3, 3)` for the last two thirds.
    """

    ours: str
    theirs: str | tuple[str, ...]
    layout: str = ""
    stacked: bool = False
    part: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Unused:
    """Tensors of theirs that no model of ours has.

    Attributes:
        theirs: A regular expression that the whole name matches.
        reason: Why nothing is lost without them.
    """

    theirs: str
    reason: str


@dataclass(frozen=True)
class FilledEntry:
    """An `Entry` filled for one tensor of a model: where its values are.

    Attributes:
        ours: The canonical name.
        shape: The canonical shape.
        theirs: The names there, in the order of concatenation.
        layout: The layout, as in `Entry`.
        sizes: Sizes of the axes in `layout` that a merged axis hides.
        index: The place in their stacked tensor; None where it isn't stacked.
        part: The part, as in `Entry`.
    """

    ours: str
    shape: Shape
    theirs: tuple[str, ...]
    layout: str
    sizes: tuple[tuple[str, int], ...]
    index: int | None
    part: tuple[int, int, int] | None = None

    @property
    def part_shape(self) -> Shape:
        """Canonical shape of what each of their tensors holds."""
        return (self.shape[0] // len(self.theirs), *self.shape[1:]) if len(self.theirs) > 1 else self.shape

    @property
    def place(self) -> int | slice | None:
        """Where it is along the first axis of their tensor; None where it is all of it."""
        if self.part is None:
            return self.index
        start, stop, _ = self.part
        rows = self.shape[0] // (stop - start)
        return slice(start * rows, stop * rows)

    @property
    def their_shape(self) -> Shape:
        """Shape there, without the stacked axis."""
        if self.part is not None:
            start, stop, parts = self.part
            return (self.shape[0] // (stop - start) * parts, *self.shape[1:])
        if not self.layout:
            return self.part_shape
        sizes = {"1": 1, **dict(self.sizes)}
        theirs, ours = (_axes(side) for side in self.layout.split("->"))
        for group, size in zip(ours, self.part_shape, strict=True):
            unknown = [axis for axis in group if axis not in sizes]
            known = math.prod(sizes[axis] for axis in group if axis in sizes)
            sizes |= dict.fromkeys(unknown, size // known)
        return tuple(math.prod(sizes[axis] for axis in group) for group in theirs)

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Their values in the canonical layout."""
        if not self.layout:
            return value.reshape(self.part_shape)
        return einops.rearrange(value, self.layout, **self._used(self.layout.split("->")[0]))

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `to_ours`."""
        if not self.layout:
            return value
        theirs, ours = self.layout.split("->")
        return einops.rearrange(value, f"{ours}->{theirs}", **self._used(ours))

    def _used(self, side: str) -> dict[str, int]:
        """Sizes of the axes that one side of the pattern merges."""
        hidden = {axis for group in _axes(side) if len(group) > 1 for axis in group}
        return {axis: size for axis, size in self.sizes if axis in hidden}


def fill(
    table: Sequence[Entry], config: Config, *, last_names: Mapping[str, str] | None = None, source: str
) -> list[FilledEntry]:
    """Fills a table for a model: where each tensor of it is kept.

    Args:
        table: The entries; the first that fits counts.
        config: The config of the model.
        last_names: What the last part of a name is called there, such as `kernel` for `weight`.
        source: What to call the format or the file in an error.

    Raises:
        CheckpointError: The format has no place for some tensors; names them.
    """
    sizes = _sizes(config)
    patterns = [(_pattern(entry.ours), entry) for entry in table]
    filled, homeless = [], []
    for name, shape in parameter_shapes(config).items():
        fits = next(((match, entry) for pattern, entry in patterns if (match := pattern.fullmatch(name))), None)
        if fits is None:
            homeless.append(name)
            continue
        match, entry = fits
        last = match.group("last") or ""
        last = f".{(last_names or {}).get(last[1:], last[1:])}" if last else ""
        numbers = {key: int(value) for key, value in match.groupdict().items() if key != "last"}
        theirs = (entry.theirs,) if isinstance(entry.theirs, str) else entry.theirs
        names = tuple(their.format(**numbers) + last for their in theirs)
        # A pattern for a kernel says nothing of the bias beside it.
        layout = entry.layout if entry.layout and len(_axes(entry.layout.split("->")[1])) == len(shape) else ""
        filled.append(
            FilledEntry(name, shape, names, layout, sizes, numbers["i"] if entry.stacked else None, entry.part)
        )
    if homeless:
        raise CheckpointError(
            f"{source}: no place for {', '.join(homeless[:8])} ({len(homeless)} tensors) of this config"
        )
    return filled


def _sizes(config: Config) -> tuple[tuple[str, int], ...]:
    """Axes that layouts name; other families have no layout of their own so far."""
    if not isinstance(config, VitConfig):
        return ()
    height, width = config.patch_size
    return ("nh", config.num_heads), ("hd", config.head_dim), ("ph", height), ("pw", width)


def their_shapes(filled: Sequence[FilledEntry]) -> dict[str, Shape]:
    """Shape of each tensor there, by the name there."""
    depth = {name: 0 for entry in filled for name in entry.theirs}
    for entry in filled:
        for name in entry.theirs:
            depth[name] = max(depth[name], 0 if entry.index is None else entry.index + 1)
    return {
        name: (depth[name], *entry.their_shape) if depth[name] else entry.their_shape
        for entry in filled
        for name in entry.theirs
    }


def canonical_shapes(table: Sequence[Entry], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Canonical names and shapes of what a table has of a file, from which a config can be made.

    Args:
        table: Entries without merged axes, of which those with several names there play no part; the first that fits
            counts.
        shapes: The file's shapes by name. Those that no entry names are left out, and one that its layout doesn't fit
            stays as it is.
    """
    patterns = [(_pattern(entry.theirs), entry) for entry in table if isinstance(entry.theirs, str)]
    found = {}
    for name, shape in shapes.items():
        for pattern, entry in patterns:
            if match := pattern.fullmatch(name):
                numbers = {key: value for key, value in match.groupdict().items() if key != "last"}
                found[entry.ours.format(**numbers) + (match.group("last") or "")] = _laid_out(shape, entry.layout)
                break
    return found


_ADVICE = "--ignore PATTERN (ignore= in Python) leaves tensors out that are no part of the model"
_LORA = "LoRA beside the weights: merge it into them (PEFT's merge_and_unload) and save again"


class Ours(Tensors):
    """Their tensors by canonical name, in canonical layout; each is made when it is asked for.

    Args:
        filled: Where each is kept, from `fill`.
        tensors: The foreign tensors, which may be lazy.
        unused: What may be there besides.
        source: What to call them in an error.
        called: What a tensor of theirs is called in the file, where that is more than its name.
        unread: Why something of the file was left out, by what it is called.

    Raises:
        CheckpointError: Missing, unexpected or misshapen tensors, by their names there, all in one report.
    """

    def __init__(
        self,
        filled: Sequence[FilledEntry],
        tensors: Mapping[str, np.ndarray],
        *,
        unused: Sequence[Unused] = (),
        source: str,
        called: Callable[[str], str] = str,
        unread: Mapping[str, str] | None = None,
    ):
        found = shapes_of(tensors)
        expected = their_shapes(filled)
        left_out = {
            name: rule.reason
            for name in found
            if name not in expected
            for rule in unused
            if re.fullmatch(rule.theirs, name)
        }
        found = {name: shape for name, shape in found.items() if name not in left_out}
        advice = _LORA if any(".lora_" in name for name in found) else _ADVICE
        account(expected, found, source=source, called=called, unread=unread, advice=advice)
        self.ignored = {called(name): reason for name, reason in left_out.items()}
        self.path = getattr(tensors, "path", Path(source))
        self._filled = {entry.ours: entry for entry in filled}
        self._tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads what one tensor is made of."""
        entry = self._filled[name]
        parts = [entry.to_ours(_read(self._tensors, their, entry.place)) for their in entry.theirs]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def slice(self, name: str, index: Index) -> np.ndarray:
        """Reads a part of one tensor: nothing else where their layout is ours, or else what the whole is made of."""
        entry = self._filled[name]
        if entry.layout or entry.place is not None or not index:
            return super().slice(name, index)
        rows = entry.part_shape[0]
        start, stop, _ = index[0].indices(entry.shape[0])
        parts = [
            slice_of(self._tensors, their, (slice(max(start - first, 0), min(stop - first, rows)), *index[1:]))
            for first, their in zip(range(0, entry.shape[0], rows), entry.theirs, strict=True)
            if start < first + rows and stop > first
        ]
        return np.concatenate(parts) if parts else super().slice(name, index)

    def __iter__(self) -> Iterator[str]:
        """Canonical names."""
        return iter(self._filled)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._filled)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor; reads none."""
        return {name: entry.shape for name, entry in self._filled.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor; reads none where the file says it."""
        theirs = dtypes_of(self._tensors)
        return {name: theirs[entry.theirs[0]] for name, entry in self._filled.items()}


class Theirs(Tensors):
    """Canonical tensors by another project's names, in its layout; each is made when it is asked for.

    Args:
        filled: Where each is to be kept, from `fill`.
        tensors: Canonical, which may be lazy.
        added: Tensors that their models have besides, by their name.
    """

    def __init__(
        self,
        filled: Sequence[FilledEntry],
        tensors: Mapping[str, np.ndarray],
        *,
        added: Mapping[str, np.ndarray] | None = None,
    ):
        self._shapes = their_shapes(filled)
        self._made_of: dict[str, list[tuple[FilledEntry, int]]] = {name: [] for name in self._shapes}
        for entry in filled:
            for number, name in enumerate(entry.theirs):
                self._made_of[name].append((entry, number))
        self.path = getattr(tensors, "path", Path())
        self._tensors = tensors
        self._added = dict(added or {})

    def __getitem__(self, name: str) -> np.ndarray:
        """Makes one tensor."""
        if name in self._added:
            return self._added[name]
        made_of = sorted(self._made_of[name], key=lambda made: made[0].index or 0)
        made = [self._part(entry, number) for entry, number in made_of]
        if made_of[0][0].index is not None:
            return np.stack(made)
        if made_of[0][0].part is None:
            return made[0] if len(made) == 1 else np.concatenate(made)
        whole = np.zeros(self._shapes[name], made[0].dtype)  # theirs may have rows that ours hasn't
        for (entry, _), part in zip(made_of, made, strict=True):
            whole[entry.place] = part
        return whole

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter([*self._shapes, *self._added])

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._shapes) + len(self._added)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor; makes none."""
        return self._shapes | {name: value.shape for name, value in self._added.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each tensor; makes none where the source says it."""
        ours = dtypes_of(self._tensors)
        dtypes = {name: ours[made[0][0].ours] for name, made in self._made_of.items()}
        return dtypes | {name: value.dtype for name, value in self._added.items()}

    def _part(self, entry: FilledEntry, number: int) -> np.ndarray:
        if len(entry.theirs) == 1:
            return entry.to_theirs(np.asarray(self._tensors[entry.ours]))
        rows = entry.part_shape[0]
        part = _read(self._tensors, entry.ours, slice(number * rows, (number + 1) * rows))
        return np.ascontiguousarray(entry.to_theirs(part))


def _read(tensors: Mapping[str, np.ndarray], name: str, place: int | slice | None) -> np.ndarray:
    """A tensor or a part along its first axis; of a tensor in a file, that part alone is read."""
    if place is None:
        return np.asarray(tensors[name])
    if isinstance(place, int):
        return slice_of(tensors, name, (slice(place, place + 1),))[0]
    return slice_of(tensors, name, (place,))


def _laid_out(shape: Shape, layout: str) -> Shape:
    theirs, _, ours = layout.partition("->")
    if len(theirs.split()) != len(shape):
        return tuple(shape)
    sizes = dict(zip(theirs.split(), shape, strict=True)) | {"1": 1}
    return tuple(sizes[axis] for axis in ours.split())


def _pattern(name: str) -> re.Pattern[str]:
    text = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(name))
    return re.compile(rf"{text}(?P<last>\.(?:weight|bias|running_mean|running_var))?")


def _axes(side: str) -> list[list[str]]:
    """Axes of one side of an einops pattern, those that are merged together."""
    return [token.strip("()").split() for token in re.findall(r"\([^)]*\)|\S+", side)]
