"""Arguments of timm's constructors to fields and back, as its hierarchies share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...configs import Config, close_match
from ..accounting import CheckpointError


def fields_of(
    data: Mapping[str, Any],
    *,
    named: Mapping[str, str],
    only: Mapping[str, Any],
    others: Sequence[str],
    without_effect: Sequence[str],
) -> dict[str, Any]:
    """The fields that timm's `config.json` says, but for its preprocessing.

    Args:
        data: Its object.
        named: Our fields, by the arguments that have their values.
        only: What isn't another model at one value.
        others: Arguments that the caller reads.
        without_effect: What changes no output.

    Raises:
        ValueError: An argument that isn't known, or a value that can't be had here.
    """
    fields: dict[str, Any] = {}
    for key, value in (data.get("model_args") or {}).items():
        if key in named:
            fields[named[key]] = tuple(value) if isinstance(value, list) else value
        elif key in only:
            if value != only[key]:
                raise ValueError(f"model_args.{key}: got {value!r}, expected {only[key]!r}")
        elif key not in (*without_effect, *others):
            known = (*named, *only, *others)
            raise ValueError(
                f"model_args.{key}: not supported{close_match(key, known)}; expected some of {', '.join(known)}"
            )
    if (classes := data.get("num_classes")) is not None:
        fields["num_classes"] = classes
    return fields


def input_size(data: Mapping[str, Any]) -> dict[str, Any]:
    """The image size of a model that takes every size, which timm's `config.json` says beside the arguments."""
    size = (data.get("pretrained_cfg") or {}).get("input_size")
    return {} if size is None else {"image_size": tuple(size[1:])}


def check_same(path: Path, config: Config, registered: Config, fields: Sequence[str]) -> None:
    """Whether a config has timm's values of fields for which there are no arguments.

    Raises:
        CheckpointError: It has others; names each.
    """
    problems = [
        f"{field} is {getattr(config, field)!r}, not {getattr(registered, field)!r}"
        for field in fields
        if getattr(config, field) != getattr(registered, field)
    ]
    if problems:
        hint = "; --numerics timm takes its own" if set(fields) <= set(config.numerics) else ""
        raise CheckpointError(f"{path}: timm has no arguments for this config: {', '.join(problems)}{hint}")


def changed(config: Config, registered: Config, named: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that make one of timm's models another config; classes stand beside them."""
    return {
        theirs: getattr(config, ours)
        for theirs, ours in named.items()
        if ours != "num_classes" and getattr(config, ours) != getattr(registered, ours)
    }
