"""Whether a value is what a dataclass says that its field holds: JSON and command lines may have anything there.

`true` is an integer to Python, `12.0` one to a reader, and `nan` a float: none of them is taken for a size or an eps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, Union

_SHOWN = 80


def check_fields(instance: Any, *, prefix: str = "") -> None:
    """Checks the types of a dataclass's fields.

    Args:
        instance: An instance of the dataclass, such as `self` in its `__post_init__`.
        prefix: What stands before a field's name in the error, such as `rope.`.

    Raises:
        ValueError: A value of another type, or a number that isn't finite; names the field, got and expected.
    """
    for name, kind in _kinds(type(instance)).items():
        check_value(f"{prefix}{name}", getattr(instance, name), kind)


def check_values(cls: type, values: Mapping[str, Any]) -> None:
    """Checks the types of some fields of a dataclass before one is made.

    Raises:
        ValueError: The same as from `check_fields`.
    """
    kinds = _kinds(cls)
    for name, value in values.items():
        check_value(name, value, kinds[name])


def check_value(name: str, value: Any, kind: Any) -> None:
    """Checks one value against a type as annotations write it.

    Raises:
        ValueError: The same as from `check_fields`.
    """
    if not _fits(value, kind):
        raise ValueError(f"{name}: got {shown(value)}, expected {_described(kind)}")


def expect(condition: bool, name: str, got: object, expected: str) -> None:
    """Raises ValueError, naming the field, where a condition doesn't hold."""
    if not condition:
        raise ValueError(f"{name}: got {got}, expected {expected}")


def as_pair(name: str, value: Any) -> tuple[int, int]:
    """Height and width of one number, or of a pair of them.

    Raises:
        ValueError: Anything else, or a number below 1.
    """
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    valid = len(pair) == 2 and all(isinstance(side, int) and side >= 1 for side in pair)
    got = shown(pair if isinstance(value, list | tuple) else value)
    expect(valid, name, got, "one positive integer or a pair (height, width)")
    return pair[0], pair[1]


def shown(value: Any) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def parts_of(cls: type) -> dict[str, type]:
    """The fields of a dataclass that hold another dataclass, or may hold one, each with its class."""
    found = ((name, one) for name, kind in _kinds(cls).items() for one in (kind, *typing.get_args(kind)))
    return {name: one for name, one in found if isinstance(one, type) and is_dataclass(one)}


@functools.cache
def _kinds(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if kind is float:
        return type(value) is int or (isinstance(value, float) and math.isfinite(value))
    if kind in (int, bool):
        return type(value) is kind
    return kind is Any or isinstance(value, origin or kind)


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return ", or ".join(_described(one) for one in sorted(arguments, key=lambda one: one is type(None)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return _sequence(arguments)
    names = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string", type(None): "none"}
    return names.get(kind, "an object")


def _sequence(arguments: tuple[Any, ...]) -> str:
    plural = {int: "integers", float: "finite numbers"}.get(arguments[0], "values")
    return f"a list of {plural}" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} {plural}"
