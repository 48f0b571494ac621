"""What is known of a checkpoint beside its tensors: what the user says of it, and what had to be assumed.

A value that tensors can't show comes from the first of these that has it: a field that the user set, the file's own
names and documents, the model that the user named, and at last what is usual, which then is an `Assumption`: listed in
`Checkpoint.assumed`, shown by `info` and `convert`, warned of by `load`, kept in a native `config.json`. Where nothing
is usual it is asked for: an error with the readings there are, and how to say each.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..configs import Config, VitConfig, close_match, get, replace
from ..configs.fields import check_value, parts_of
from ..configs.registry import FAMILIES, jsonable
from .accounting import CheckpointError

AnyConfig = TypeVar("AnyConfig", bound=Config)
_NOTHING: Any = object()
_NESTED = frozenset(part for family in FAMILIES.values() for part in parts_of(family))
_SIZES = ("image_size", "patch_size")


@dataclasses.dataclass(frozen=True)
class Assumption:
    """A value that nothing says.

    Attributes:
        field: The config field, or `prefix` for the part of a file that is read.
        value: What it was taken for.
        why: The reason, in words.
    """

    field: str
    value: Any
    why: str

    def __str__(self) -> str:
        value = shown = jsonable(self._plain())
        if isinstance(value, list):
            is_size = all(isinstance(item, int) for item in value)
            shown = "x".join(map(str, value)) if is_size else json.dumps(value, separators=(",", ":"))
        if isinstance(value, dict):
            parts = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
            shown = ", ".join(f"{name}={item}" for name, item in parts.items() if item is not None)
        return f"{self.field} {shown}: {self.why}"

    def to_json(self) -> dict[str, Any]:
        """The assumption as `config.json` keeps it."""
        return {"field": self.field, "value": jsonable(self._plain()), "why": self.why}

    def beside(self, fields: Iterable[str], like: Config | None = None) -> Assumption | None:
        """What is left of it beside what is said.

        Args:
            fields: Names of fields, inner ones too, such as `act` and `preprocessing.mean`.
            like: A model, which says what it has the same value of.
        """
        fields, value = set(fields), self._plain()
        same = dataclasses.replace(self, value=getattr(like, self.field, _NOTHING))
        if self.field in fields or same.to_json() == self.to_json():
            return None
        if not isinstance(value, dict) or not any(f"{self.field}.{name}" in fields for name in value):
            return self
        left = {name: item for name, item in value.items() if f"{self.field}.{name}" not in fields and item is not None}
        return dataclasses.replace(self, value=left) if left else None

    def _plain(self) -> Any:
        return dataclasses.asdict(self.value) if dataclasses.is_dataclass(self.value) else self.value  # type: ignore


class AssumedWarning(UserWarning):
    """Something of a checkpoint was assumed; saying the field ends the warning."""


def warn_of(assumed: Iterable[Assumption], *, path: str | Path, named: bool = False, stacklevel: int = 3) -> None:
    """One warning for all that was assumed of a file; none where nothing was.

    Args:
        assumed: What was assumed of it.
        path: What to call it.
        named: Whether a model is named already, which then doesn't say these.
        stacklevel: The stack level, as `warnings.warn` takes it.
    """
    if found := list(assumed):
        fields = ", ".join(f"{field}=" for field in dict.fromkeys(assumption.field for assumption in found))
        lines = "\n  ".join(map(str, found))
        how = f"saying the field ({fields})" + ("" if named else ", or the model that has it (model=),")
        text = f"{path}: assumed, since the file doesn't say it:\n  {lines}\n{how} ends this"
        warnings.warn(text, AssumedWarning, stacklevel=stacklevel)


class Given:
    """What the user says of a file; collects what is assumed of it.

    Args:
        model: A registered name, or a config, which has what the tensors can't show.
        fields: Config fields by name; inner ones as `preprocessing.mean`.
        target_size: The image size that is wanted in the end: among several grids that positions can have, it is one.

    Attributes:
        model: The config of the model.
        name: Its name; empty for a config.
        fields: The fields as they were given.
        target_size: The target size as it was given.
        assumed: What was assumed so far.

    Raises:
        ValueError: An unknown model or field; names the nearest.
    """

    def __init__(
        self,
        model: str | Config | None = None,
        fields: Mapping[str, Any] | None = None,
        *,
        target_size: int | tuple[int, int] | None = None,
    ):
        self.model = get(model) if isinstance(model, str) else model
        self.name = model if isinstance(model, str) else ""
        self.fields = by_parts(fields or {})
        self.target_size = (target_size, target_size) if isinstance(target_size, int) else target_size
        self.assumed: list[Assumption] = []
        self._used: set[str] = set()
        known = {field.name for family in FAMILIES.values() for field in dataclasses.fields(family)}
        for field in self.fields:
            outer, _, inner = field.partition(".")
            if field not in known and not (outer in _NESTED and inner):
                raise ValueError(f"unknown config field {field!r}{close_match(field, known)}")

    @property
    def like(self) -> VitConfig | None:
        """The config of the model, where it is to be a flat ViT.

        Raises:
            ValueError: It is of another family.
        """
        return None if self.model is None else VitConfig.of(self.model)

    def says(self, field: str) -> bool:
        """Whether the user set a field or named a model."""
        return field in self.fields or self.model is not None

    def take(self, field: str, default: Any = None) -> Any:
        """A field that the user set."""
        self._used.add(field)
        return self.fields.get(field, default)

    def settle(
        self, field: str, *, shown: Any = _NOTHING, usual: Any = _NOTHING, why: str = "", path: str | Path = ""
    ) -> Any:
        """The value of a field.

        Args:
            field: Its name.
            shown: What the file's names, shapes or documents say, if they do.
            usual: What to assume where nothing says it.
            why: The reason of the assumption; without one the value changes no output, and isn't listed.
            path: What errors call the file.

        Raises:
            CheckpointError: The user says another value than the file, or nothing says it.
        """
        if field in self.fields:
            value = self.take(field)
            if shown is not _NOTHING and value != shown:
                raise CheckpointError(f"{path}: {field}: got {value!r}, but the file says {shown!r}")
            return value
        if shown is not _NOTHING:
            return shown
        if self.model is not None:
            return getattr(self.model, field)
        if usual is _NOTHING:
            raise CheckpointError(f"{path}: nothing says {field}; {say(field)}, or name the model with --model NAME")
        return self.assume(field, usual, why)

    def settle_beside(self, known: Mapping[str, Any], field: str, **how: Any) -> Any:
        """The same where a format or a document says some fields: before the named model, after the user's own word.

        Args:
            known: What it says, by field.
            field: The name of the field.
            how: The other arguments of `settle`.

        Raises:
            CheckpointError: The same as from `settle`.
        """
        return known[field] if field in known and field not in self.fields else self.settle(field, **how)

    def assume(self, field: str, value: Any, why: str) -> Any:
        """Notes an assumption, unless the user set the field or it has no reason to be listed; gives the value."""
        if field in self.fields:
            return self.take(field)
        if why:
            self.assumed.append(Assumption(field, value, why))
        return value

    def rest(self) -> dict[str, Any]:
        """The fields that reading didn't take."""
        return {field: value for field, value in self.fields.items() if field not in self._used}


def by_parts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with an object for preprocessing as what it says of each part of it, such as `preprocessing.mean`.

    Lists become tuples, and a number that is a size two of them.

    Raises:
        ValueError: Something else for a size.
    """
    found = dict(fields)
    if isinstance(images := found.get("preprocessing"), Mapping):
        del found["preprocessing"]
        found |= {f"preprocessing.{name}": value for name, value in images.items()}
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    for name in (name for name in _SIZES if name in found):
        found[name] = (found[name],) * 2 if isinstance(found[name], int) else found[name]
        check_value(name, found[name], tuple[int, int])
    return found


def with_fields(config: AnyConfig, fields: Mapping[str, Any]) -> AnyConfig:
    """A config with fields replaced, inner ones too.

    Raises:
        ValueError: Fields that make no model.
    """
    inner: dict[str, dict[str, Any]] = {}
    outer: dict[str, Any] = {}
    for name, value in by_parts(fields).items():
        part, _, field = name.partition(".")
        if field:
            inner.setdefault(part, {})[field] = value
        else:
            outer[name] = value
    config = replace(config, **outer)
    for part, changes in inner.items():
        if getattr(config, part) is None:
            raise ValueError(f"{part}.{next(iter(changes))}: the model has no {part}")
        config = replace(config, **{part: replace(getattr(config, part), **changes)})
    return config


def say(field: str, *others: str, value: str = "VALUE") -> str:
    """How to say a field, on the command line and in Python.

    Args:
        field: Its name.
        others: Other values that it may have.
        value: The value, in capitals where it is the user's to fill in; a size as `64x160`.
    """
    flags = " or ".join(f"--set {field}={one}" for one in (value, *others))
    python = " or ".join(f"{field}={_in_python(one)}" for one in (value, *others))
    return f"say it with {flags} (in Python {python})"


def _in_python(value: str) -> str:
    height, _, width = value.partition("x")
    is_size = all(side.isdigit() or side.isupper() for side in (height, width))
    return f"({height}, {width})" if is_size else f'"{value}"' if value.islower() else value
