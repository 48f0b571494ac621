"""What a pickle says, without running anything that it names.

The standard library's `pickletools.genops` takes a pickle apart; the operations that checkpoints use are carried out
here on plain values. A name such as `torch._utils._rebuild_tensor_v2` never becomes a function: it stays a `Global`,
applying it gives a `Call`, and whoever reads the result decides what calls mean. Names that aren't allowed end it.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .stored import short


@dataclass(frozen=True)
class Global:
    """A name in a module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Call:
    """What a name would have made of arguments."""

    function: Global
    arguments: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Reference:
    """Something outside of the pickle, by whatever identifies it there."""

    identity: Any = field(repr=False)


# Hashing a tuple walks through it, and one of a few bytes can be 2**40 long.
_KEYS = (str, bytes, int, float, type(None))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}


def read_pickle(file: BinaryIO, allowed: Container[tuple[str, str]]) -> tuple[Any, list[Reference]]:
    """The value of the pickle that a file goes on with, made of plain values, `Global`, `Call` and `Reference`.

    Dictionaries of any kind become `dict`, sets become lists, and the state of an object is dropped.

    Args:
        file: Left behind the pickle.
        allowed: Modules and names that may occur.

    Returns:
        The value, and each reference in it or dropped on the way.

    Raises:
        ValueError: Not a pickle, or one with a name that isn't allowed, which the message gives.
    """
    machine = _Machine(allowed)
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in the oldest kind of string
            for opcode, argument, _ in pickletools.genops(file):
                machine.step(opcode.name, argument)
        return machine.stack[-1], machine.references
    except (LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a sound pickle: {type(error).__name__}: {error}") from None


class _Machine:
    def __init__(self, allowed: Container[tuple[str, str]]):
        self.allowed = allowed
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under each mark
        self.references: list[Reference] = []
        self.memo: dict[int, Any] = {}  # not a list: a pickle may put its first value at 2**32 - 1

    def step(self, name: str, argument: Any) -> None:
        """Carries out one operation."""
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in _LITERALS:
                push(argument)
            case _ if name in _CONSTANTS:
                push(_CONSTANTS[name])
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "POP" if self.stack:
                self.stack.pop()
            case "POP" | "POP_MARK":
                self._marked()
            case "DUP":
                push(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(self._global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self.stack.pop(), self.stack.pop()
                self.stack.append(self._global(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(_apply(function, arguments))
            case "BUILD":
                self.stack.pop()
                _expect(self.stack[-1], (dict, Call))
            case "BINPERSID":
                self.references.append(Reference(self.stack.pop()))
                self.stack.append(self.references[-1])
            case _:
                self._container(name)

    def _container(self, name: str) -> None:
        """Operations on lists, tuples, dictionaries and sets."""
        match name:
            case "EMPTY_LIST" | "EMPTY_SET":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                values = self.stack[-count:]
                if len(values) < count:
                    raise LookupError("the stack is too short")
                self.stack[-count:] = [tuple(values)]
            case "TUPLE":
                values = tuple(self._marked())
                self.stack.append(values)
            case "LIST" | "FROZENSET":
                values = self._marked()
                self.stack.append(values)
            case "DICT":
                values = self._marked()
                self.stack.append(_update({}, values))
            case "APPEND":
                value = self.stack.pop()
                _expect(self.stack[-1], list).append(value)
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                _expect(self.stack[-1], list).extend(values)
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                _update(self.stack[-1], [key, value])
            case "SETITEMS":
                values = self._marked()
                _update(self.stack[-1], values)
            case _:
                raise ValueError(f"refused: the operation {name}, which no checkpoint needs")

    def _marked(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def _global(self, module: Any, name: Any) -> Global:
        if (_expect(module, str), _expect(name, str)) not in self.allowed:
            raise ValueError(f"refused: it names {short(f'{module}.{name}')}, which no checkpoint of weights needs")
        return Global(module, name)


def _apply(function: Any, arguments: Any) -> Any:
    call = Call(_expect(function, Global), _expect(arguments, tuple))
    match call.function.name:
        case "OrderedDict":
            # Python 2 wrote the pairs as the argument.
            pairs = arguments[0] if arguments else []
            return _update({}, [value for pair in _expect(pairs, list) for value in _expect(pair, (list, tuple))])
        case "defaultdict":
            return {}
        case "Size":
            return tuple(_expect(arguments[0], (list, tuple)))
    return call


def _update(target: Any, values: list[Any]) -> dict[Any, Any]:
    _expect(target, dict)
    if len(values) % 2:
        raise ValueError("not a sound pickle: a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[_expect(key, _KEYS)] = value
    return target


def _expect(value: Any, kinds: Any) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"got {short(value)} in a place where it can't be")
    return value
