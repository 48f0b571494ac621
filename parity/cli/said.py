"""What every command that takes a checkpoint can be told of it: one group of flags."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import tyro
from tyro.conf import UseAppendAction

from .. import configs
from ..configs.registry import FAMILIES
from .common import From, NumericsSource, escaped, is_path, print_rich

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..configs import Config


@dataclass(frozen=True, kw_only=True)
class SaidOfFile:
    """What a checkpoint doesn't say of itself, but for the model that it is.

    Attributes:
        from_: The format of the checkpoint; recognised from its files by default.
        numerics: The project as whose model the weights are run; the one they come from by default.
        prefix: What the names of the model begin with, such as `teacher.backbone.`, where a file has several models.
        ignore: Tensors to leave out, such as `criterion.*`; give it again for more.
        set: A config field that the file doesn't say, as FIELD=VALUE, such as num_heads=4, image_size=64x160 (of the
            file itself) or preprocessing.crop_pct=1.0; give it again for more.
    """

    from_: From = None
    numerics: NumericsSource = None
    prefix: str | None = None
    ignore: UseAppendAction[tuple[str, ...]] = ()
    set: UseAppendAction[tuple[str, ...]] = ()

    def keywords(self) -> dict[str, Any]:
        """The keywords that were given, as `open_checkpoint` takes them.

        Raises:
            ValueError: A field without a value.
        """
        named = {"format": self.from_, "numerics": self.numerics, "prefix": self.prefix}
        given = {name: value for name, value in named.items() if value is not None}
        return given | ({"ignore": self.ignore} if self.ignore else {}) | parsed(self.set)


@dataclass(frozen=True, kw_only=True)
class Said(SaidOfFile):
    """What a checkpoint doesn't say of itself.

    Attributes:
        model: A registered name, for what the tensors don't show.
    """

    model: str | None = None

    def keywords(self) -> dict[str, Any]:
        """The keywords that were given, as `open_checkpoint` takes them."""
        return ({} if self.model is None else {"model": self.model}) | super().keywords()

    def target(self, target: str, **options: Any) -> str | Config | Checkpoint:
        """A checkpoint opened, or a registered name, with its fields replaced where some are set.

        Raises:
            ValueError: Something that is said of a checkpoint is said of a name.
        """
        if is_path(target):
            return self.open(target, **options)
        config = self.registered(target)
        return config if self.set else target

    def registered(self, name: str, *, but: Sequence[str] = ()) -> Config:
        """A registered model, with its fields replaced where some are set.

        Args:
            name: The name of the model.
            but: What else may be said of it.

        Raises:
            ValueError: Something that is said of a checkpoint is said of a name.
        """
        from ..checkpoints.assumed import with_fields

        given, fields = self.keywords(), parsed(self.set)
        if other := [field for field in given if field not in fields and field not in but]:
            raise ValueError(f"{other[0]}: got {given[other[0]]!r} for the registered model {name!r}; it is for files")
        return with_fields(configs.get(name), fields)

    def open(self, path: str, **options: Any) -> Checkpoint:
        """Opens a checkpoint and prints what was assumed of it."""
        from ..checkpoints import open_checkpoint

        checkpoint = open_checkpoint(path, **options, **self.keywords())
        print_assumed(checkpoint, named=self.model is not None)
        return checkpoint


# As a parameter of a command: its flags have no prefix.
SaidOf = Annotated[Said, tyro.conf.arg(name="")]


def print_assumed(checkpoint: Checkpoint, *, named: bool) -> None:
    """Says what was assumed of a checkpoint, and how to say it.

    Args:
        checkpoint: The checkpoint.
        named: Whether a model is named already, which then doesn't say these.
    """
    for assumption in checkpoint.assumed:
        print_rich(f"[yellow]assumed[/]: {escaped(assumption)}", stderr=True)
    if checkpoint.assumed:
        first = checkpoint.assumed[0].to_json()
        inner = f".{next(iter(first['value']))}" if isinstance(first["value"], dict) else ""
        or_named = "" if named else ", or --model NAME,"
        text = f"the file doesn't say these; --set {first['field']}{inner}=VALUE and so on{or_named} does"
        print_rich(escaped(text), stderr=True)


def parsed(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of `FIELD=VALUE`: JSON, `none`, sizes such as `64x160`, lists such as `0.5,0.5,0.5`, and words.

    Raises:
        ValueError: No such form.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals or not field:
            raise ValueError(f"set: got {setting!r}, expected FIELD=VALUE, such as num_heads=4")
        found[field.strip()] = _value(field.strip(), text.strip())
    return found


def _value(field: str, text: str) -> Any:
    # For some fields `none` is one of several words.
    if text.lower() == "null" or (text.lower() == "none" and "none" not in get_args(_hints().get(field))):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for separator in (",", "x") if "[[" not in text else ():
        parts = text.strip("()[]").split(separator)
        if len(parts) > 1 and all(_is_number(part) for part in parts):
            return tuple(json.loads(part) for part in parts)
    try:
        return json.loads(text)
    except ValueError:
        return text


@functools.cache
def _hints() -> dict[str, Any]:
    return {name: hint for cls in FAMILIES.values() for name, hint in get_type_hints(cls).items()}


def _is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except ValueError:
        return False
