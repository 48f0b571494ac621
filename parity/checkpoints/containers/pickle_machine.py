"""What a pickle says, without running anything that it names.

The standard library's `pickletools.genops` takes a pickle apart; its operations are carried out here on plain values.
A name such as `torch._utils._rebuild_tensor_v2` never becomes a function: it stays a `Global`, applying it gives a
`Call`, whatever state it would get is kept beside it, and whoever reads the result decides what calls mean. So anything
may be named: a counter, a path, a class that exists on somebody else's machine alone.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

from .stored import short


class Source(Protocol):
    """What a pickle is read from. One that holds less than it is asked for must not take memory for it."""

    def read(self, count: int, /) -> bytes:
        """Reads at most so many bytes."""
        ...

    def readline(self) -> bytes:
        """All bytes up to the end of the line."""
        ...


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """What a name would have made of arguments.

    Attributes:
        function: The name, or what another call would have made of one.
        arguments: Its arguments by position.
        keywords: Its arguments by name.
        state: What it would then be given as its state: most often its attributes.
        items: Entries that it would then be given, as a dictionary.
        elements: Elements that it would then be given, as a list.
    """

    function: Global | Call
    arguments: tuple[Any, ...] = field(repr=False)
    keywords: Any = field(default=None, repr=False)
    state: Any = field(default=None, repr=False)
    items: dict[Any, Any] | None = field(default=None, repr=False)
    elements: list[Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return str(self.function) if isinstance(self.function, Global) else "what another call makes"


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """Something outside of the pickle, by whatever identifies it there."""

    identity: Any = field(repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class Key:
    """A key of a dictionary that isn't hashed: it is equal to itself alone."""

    value: Any = field(repr=False)


# Hashing a tuple walks through it, and one of a few bytes can be 2**40 long.
_KEYS = (str, bytes, int, float, type(None), Global)
_MAX_KEY = 16
# More operations than any checkpoint has; each of them may take some hundred bytes of memory.
_MAX_STEPS = 10_000_000
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}


def read_pickle(file: Source) -> tuple[Any, list[Reference]]:
    """The value of the pickle that a file goes on with, made of plain values, `Global`, `Call` and `Reference`.

    Dictionaries of any kind become `dict`, and sets become lists.

    Args:
        file: Left behind the pickle.

    Returns:
        The value, and each reference in it or dropped on the way.

    Raises:
        ValueError: The bytes are no pickle, or one with an operation that needs more than the pickle.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in the oldest kind of string
            for step, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
                if step == _MAX_STEPS:
                    raise ValueError(f"got more than {_MAX_STEPS} operations, which no checkpoint needs")
                machine.step(opcode.name, argument)
        return machine.stack[-1], machine.references
    except (LookupError, TypeError, OverflowError, RecursionError, AttributeError) as error:
        raise ValueError(f"not a sound pickle: {type(error).__name__}: {str(error)[:200]}") from None


class _Machine:
    def __init__(self):
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
                push(Global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self.stack.pop(), self.stack.pop()
                push(Global(_expect(module, str), _expect(name, str)))
            case "PERSID" | "BINPERSID":
                self.references.append(Reference(self.stack.pop() if name == "BINPERSID" else argument))
                push(self.references[-1])
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX" | "INST" | "OBJ" | "BUILD":
                self._object(name, argument)
            case _:
                self._container(name)

    def _object(self, name: str, argument: Any) -> None:
        """Operations that make objects, or give them their state."""
        match name:
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(_apply(function, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
                self.stack.append(Call(_function(function), _expect(arguments, tuple), keywords))
            case "INST":
                arguments = tuple(self._marked())
                self.stack.append(_apply(Global(*argument.split(" ", 1)), arguments))
            case "OBJ":
                function, *arguments = self._marked()
                self.stack.append(_apply(function, tuple(arguments)))
            case "BUILD":
                state, target = self.stack.pop(), self.stack[-1]
                # Attributes of a dictionary (such as `_metadata`) or of a class are no part of the weights.
                if isinstance(_expect(target, (dict, list, Call, Global)), Call):
                    target.state = state

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
                _elements(self.stack[-1]).append(value)
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                _elements(self.stack[-1]).extend(values)
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


def _apply(function: Any, arguments: Any) -> Any:
    """What a name makes of arguments: a plain value where it is one of few names, else a call.

    No argument is copied, for a few bytes of a pickle can say so many times.
    """
    call = Call(_function(function), _expect(arguments, tuple))
    match str(call), arguments:
        case "collections.OrderedDict", () | ([],):
            return {}
        case "collections.defaultdict", _:
            return {}
        case "torch.Size", (list() | tuple() as sizes,):
            return sizes
        case "builtins.set" | "__builtin__.set" | "builtins.frozenset" | "__builtin__.frozenset", (list() as values,):
            return values
        case "copyreg._reconstructor" | "copy_reg._reconstructor", (Global() | Call() as kind, _, value):
            items = value if isinstance(value, dict) else None
            return Call(kind, (), items=items, elements=value if isinstance(value, list) else None)
        case "copyreg.__newobj__" | "copy_reg.__newobj__", (Global() | Call() as kind, *_):
            return Call(kind, call.arguments)
        case "flax.core.frozen_dict.FrozenDict", (dict() as value,):
            return value
        case "torch.jit._pickle.restore_type_tag", (value, _):
            return value
        case name, (list() as values,) if name.startswith("torch.jit._pickle.build_"):
            return values
    return call


def _function(value: Any) -> Global | Call:
    # PyTorch before 1.6 puts a reference in place of a module's class, to keep its source beside it.
    match value:
        case Reference(identity=("module", Global() as name, *_)):
            return name
    return _expect(value, (Global, Call))


def _update(target: Any, values: list[Any]) -> dict[Any, Any]:
    if isinstance(target, Call):
        target.items = {} if target.items is None else target.items
        target = target.items
    _expect(target, dict)
    if len(values) % 2:
        raise ValueError("not a sound pickle: a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[key if _is_hashed_fast(key) else Key(key)] = value
    return target


def _is_hashed_fast(key: Any) -> bool:
    if isinstance(key, tuple):
        return len(key) <= _MAX_KEY and all(isinstance(part, _KEYS) for part in key)
    return isinstance(key, _KEYS)


def _elements(target: Any) -> list[Any]:
    if isinstance(target, Call):
        target.elements = [] if target.elements is None else target.elements
        return target.elements
    return _expect(target, list)


def _expect(value: Any, kinds: Any) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"got {short(value)} in a place where it can't be")
    return value
