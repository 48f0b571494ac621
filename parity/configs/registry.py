"""Named models, and configs to and from JSON."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .base import ModelConfig
from .fields import check_fields, check_values, parts_of, shown
from .mobilevit import MobileVitConfig
from .models import NORMALIZATIONS
from .preprocessing import Preprocessing
from .pvt import PvtConfig
from .resnet import ResNetConfig
from .swin import SwinConfig
from .vit import VitConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = ModelConfig
AnyDataclass = TypeVar("AnyDataclass", bound="DataclassInstance")

# The name by which a JSON file says which class its fields belong to.
FAMILIES: dict[str, type[Config]] = {
    "vit": VitConfig,
    "swin": SwinConfig,
    "pvt": PvtConfig,
    "resnet": ResNetConfig,
    "mobilevit": MobileVitConfig,
}


def names(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell-style pattern, sorted."""
    known = (name for cls in FAMILIES.values() for name in cls.registered)
    return sorted(name for name in known if fnmatch.fnmatchcase(name, pattern))


@functools.cache
def _registered(name: str) -> Config:
    for cls in FAMILIES.values():
        if name in cls.registered:
            fields: dict[str, Any] = dict(cls.registered[name])
            mean, std = NORMALIZATIONS[fields.pop("normalize", "half")]
            keys = ("interpolation", "crop_pct", "crop_mode")
            images = {key: fields.pop(key) for key in keys if key in fields}
            make: Any = cls
            return make(preprocessing=Preprocessing(mean=mean, std=std, **images), **fields)
    raise ValueError(f"unknown model {name!r}{close_match(name, names())}; `vit-parity models` lists all of them")


def get(name: str, **overrides: Any) -> Config:
    """The config of a named model, with fields replaced.

    Args:
        name: A registered name, such as `vit_small_patch16_224`.
        overrides: Fields to replace, such as `num_classes=10`.

    Raises:
        ValueError: Unknown name or field (with a close match), or fields that make no model.
    """
    return replace(_registered(name), **overrides)


def replace(config: AnyDataclass, **overrides: Any) -> AnyDataclass:
    """`dataclasses.replace` that names an unknown field and the nearest known one."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        if name not in known:
            raise ValueError(f"unknown config field {name!r}{close_match(name, known)}")
    return dataclasses.replace(config, **overrides)


def family(config: Config) -> str:
    """The registry's name for the class of a config."""
    return next(name for name, cls in FAMILIES.items() if cls is type(config))


def name_of(config: Config) -> str:
    """The registered name of a config, or of the one it differs from in input, classes and dropout only; else ''."""
    free = ("image_size", "num_classes", "drop_rate", "attn_drop_rate", "drop_path_rate")
    for ignored in ((), free):
        for name in names():
            registered = _registered(name)
            if type(registered) is type(config):
                # Field by field: one config's image size may not fit the other's patches.
                compared = [field.name for field in dataclasses.fields(config) if field.name not in ignored]
                if all(getattr(registered, field) == getattr(config, field) for field in compared):
                    return name
    return ""


def to_dict(config: Config) -> dict[str, Any]:
    """A config as JSON values: its family, then every field."""
    return {"family": family(config)} | jsonable(dataclasses.asdict(config))


def from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`.

    Raises:
        ValueError: Unknown family or field, or a value that the config rejects; names it.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"config: got {type(data).__name__}, expected an object")
    fields = dict(data)
    name = fields.pop("family", None)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"family: got {shown(name)}, expected one of {', '.join(FAMILIES)}")
    for part, cls in parts_of(FAMILIES[name]).items():
        if fields.get(part) is not None:
            fields[part] = build(cls, fields[part], part)
    return build(FAMILIES[name], fields, "config")


def close_match(name: str, known: Iterable[str]) -> str:
    """A phrase for an error message: the nearest known name, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def build(cls: type, fields: Any, where: str) -> Any:
    """A dataclass of JSON values; lists become tuples.

    Raises:
        ValueError: Not an object, an unknown field, or a value that the class rejects; begins with `where`.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: got {type(fields).__name__}, expected an object")
    known = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            raise ValueError(f"{where}: unknown field {shown(name)}{close_match(str(name)[:80], known)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        made = cls(**values)
    except (TypeError, ArithmeticError) as error:
        check_values(cls, values)  # says which field it was, if it is one
        raise ValueError(f"{where}: {error}") from None
    check_fields(made)
    return made


def jsonable(value: Any) -> Any:
    """Nested dictionaries and sequences as JSON has them."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, tuple | list) else value
