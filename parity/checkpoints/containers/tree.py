"""Tensors by name out of what a program saved: dictionaries, lists and objects within each other.

An object is read by its attributes, and one that is a module of PyTorch is read as its `state_dict` would be. Nothing
is chosen here: every tensor is given under its whole path, and which of them are a model is decided above. What files
claim may be cyclic, or share its parts so often that a few bytes are a million names, so there are limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from .pickle_machine import Call, Key
from .stored import short

Found = TypeVar("Found")

# A tensor that is the whole value has no path.
ALONE = "tensor"
_MAX_DEPTH = 32
# Characters of all paths that are made, each counted as somewhat more than it has.
_MAX_TEXT = 60_000_000
_ENTRY = 50


def flatten(value: Any, tensor_of: Callable[[Any], Found | str | None]) -> tuple[dict[str, Found], dict[str, str]]:
    """Every tensor in a value by its path, such as `state_dict.blocks.0.attn.qkv.weight`, and what else there is.

    Args:
        value: Dictionaries, lists, tuples and objects within each other.
        tensor_of: What a tensor is made of, or in words why it can't be read; None of anything else.

    Returns:
        Tensors by path; and why each other entry is left out, by the path of the topmost that holds no tensor.

    Raises:
        ValueError: No tensor is in it, two have one path, or it is deeper or has more entries than any checkpoint.
    """
    if (alone := tensor_of(value)) is not None:
        value = {ALONE: value}
    walk = _Walk(tensor_of, _holders(value, tensor_of))
    walk.into(value, "")
    if not walk.tensors:
        reasons = [f"{path}: {reason}" for path, reason in walk.ignored.items() if reason != NOTHING]
        raise ValueError(f"got {alone or '; '.join(reasons[:3]) or _seen(value)}, expected tensors")
    return walk.tensors, walk.ignored


# Why an entry that isn't one is left out.
NOTHING = "no tensor"


class _Walk:
    def __init__(self, tensor_of: Callable[[Any], Any], holders: set[int]):
        self.tensor_of = tensor_of
        self.holders = holders
        self.tensors: dict[str, Any] = {}
        self.ignored: dict[str, str] = {}
        self.above: list[int] = []
        self.left = _MAX_TEXT

    def into(self, value: Any, path: str) -> None:
        """Collects what is in a value that holds a tensor somewhere."""
        if len(self.above) == _MAX_DEPTH:
            raise ValueError(f"{short(path)}: got more than {_MAX_DEPTH} values within each other")
        self.above.append(id(value))
        for name, child, reason in _parts(value):
            self.entry(child, f"{path}.{name}" if path else name, reason)
        self.above.pop()
        if isinstance(value, Call) and id(value.arguments) in self.holders and not _pairs(value):
            self.ignored[path] = f"made of tensors by {short(str(value))}, which isn't run"

    def entry(self, value: Any, path: str, reason: str | None) -> None:
        """Collects one entry, or says why it isn't read."""
        self.left -= len(path) + _ENTRY
        if self.left < 0:
            raise ValueError(f"{short(path)}: got more entries than a checkpoint has")
        tensor = self.tensor_of(value)
        if path in self.tensors or (path in self.ignored and tensor is not None):
            raise ValueError(f"{short(path)}: two entries have this path")
        if tensor is None and id(value) not in self.holders:
            if reason is None:
                self.ignored[path] = NOTHING
        elif reason:
            self.ignored[path] = reason
        elif tensor is None and id(value) in self.above:
            self.ignored[path] = "in itself; read above"
        elif tensor is None:
            self.into(value, path)
        elif isinstance(tensor, str):
            self.ignored[path] = tensor
        else:
            self.tensors[path] = tensor


def _holders(root: Any, tensor_of: Callable[[Any], Any]) -> set[int]:
    """The identity of each value from which a tensor is reached; each is looked at once, however often it is there."""
    parents: dict[int, list[int]] = {id(root): []}
    holding: set[int] = set()
    left = [root]
    while left:
        value = left.pop()
        for child in _contents(value):
            if tensor_of(child) is not None:
                holding.add(id(value))
            elif isinstance(child, dict | list | tuple | Call):
                if id(child) not in parents:
                    parents[id(child)] = []
                    left.append(child)
                parents[id(child)].append(id(value))
    found: set[int] = set()
    ends = list(holding)
    while ends:
        if (end := ends.pop()) not in found:
            found.add(end)
            ends.extend(parents[end])
    return found


def _contents(value: Any) -> Iterable[Any]:
    if isinstance(value, Call):
        return (value.arguments, value.keywords, value.state, value.items, value.elements)
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


# An entry's name, what it is, and why it isn't read if it holds tensors; "" if it isn't listed if it holds none.
_Part = tuple[str, Any, str | None]


def _parts(value: Any) -> Iterator[_Part]:
    if isinstance(value, dict):
        yield from ((_name(key, place), child, None) for place, (key, child) in enumerate(value.items()))
    elif isinstance(value, list | tuple):
        yield from ((str(place), child, None) for place, child in enumerate(value))
    elif isinstance(value, Call):
        for attributes in _attributes(value.state):
            yield from _module(attributes) if attributes.keys() >= _MODULE else _object(attributes)
        yield from ((_name(key, place), child, None) for place, (key, child) in enumerate(_pairs(value)))
        yield from _parts(value.items)
        yield from _parts(value.elements)


def _pairs(value: Call) -> list[Any]:
    """What Python 2 makes an `OrderedDict` of."""
    match str(value), value.arguments:
        case "collections.OrderedDict", (list() as pairs,):
            return [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
    return []


def _attributes(state: Any) -> list[dict[Any, Any]]:
    """An object's attributes: its `__dict__`, or that and its `__slots__`."""
    both = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    found = [part for part in both if isinstance(part, dict)]
    return found if len(found) == sum(part is not None for part in both) else [{"state": state}]


def _object(attributes: dict[Any, Any]) -> Iterator[_Part]:
    # What else an object remembers is of no interest to whom looks for tensors.
    yield from ((_name(key, place), child, "") for place, (key, child) in enumerate(attributes.items()))


_MODULE = {"_parameters", "_buffers", "_modules"}


def _module(attributes: dict[Any, Any]) -> Iterator[_Part]:
    """The entries of a module's `state_dict`, and what it leaves out."""
    volatile = attributes.get("_non_persistent_buffers_set")
    volatile = volatile if isinstance(volatile, list | tuple) else ()
    for kind in ("_parameters", "_buffers", "_modules"):
        for name, child, _ in _parts(attributes[kind]):
            is_left_out = kind == "_buffers" and name in volatile
            yield name, child, "a buffer that isn't persistent" if is_left_out else ""
    for name, child, _ in _object(attributes):
        if name not in _MODULE:
            yield name, child, "an attribute, which a state_dict leaves out"


def _name(key: Any, place: int) -> str:
    """How a path calls an entry; by its place if its key is no name."""
    if isinstance(key, tuple):
        return ".".join(_name(part, place) for part in key)
    return key if isinstance(key, str) else f"#{place}" if isinstance(key, Key) else short(key)


def _seen(value: Any) -> str:
    """What a value without tensors is, for an error."""
    return f"the keys {short(list(value))}" if isinstance(value, dict) else short(value)
