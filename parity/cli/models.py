"""`vit-parity models` and `info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from .. import configs
from ..configs.pretrained import model_of
from .common import escaped, is_path, not_used, print_rich
from .said import Said, SaidOf

if TYPE_CHECKING:
    from rich.table import Table


def models(pattern: Positional[str] = "*") -> int:
    """List the registered models, each family in a table of its own.

    Args:
        pattern: Shell-style, such as 'vit_base*' or '*siglip*'.
    """
    names = configs.names(pattern)
    if not names:
        known = configs.close_match(pattern, configs.names())
        raise ValueError(f"no model matches {pattern!r}{known}")
    families: dict[str, dict[str, configs.Config]] = {}
    for name in names:
        config = configs.get(name)
        families.setdefault(configs.family(config), {})[name] = config
    for found in families.values():
        print_rich(_table(found))
    return 0


def _table(found: Mapping[str, configs.Config]) -> Table:
    """The models of one family by name, a row for each."""
    from rich.table import Table

    from ..checkpoints import parameter_count

    table = Table(box=None, header_style="bold")
    table.add_column("model", no_wrap=True)
    for column in (*next(iter(found.values())).summary, "parameters"):
        table.add_column(column, justify="right")
    for name, config in found.items():
        table.add_row(name, *config.summary.values(), f"{parameter_count(config) / 1e6:.2f} M")
    return table


def info(target: Positional[str], *, said: SaidOf = Said()) -> int:
    """Show a model or a checkpoint: what it is, its numerics, its config and every tensor that isn't used.

    Args:
        target: A registered name, a directory or file of weights, or `hf-hub:owner/name`.
        said: What it doesn't say of itself.
    """
    from dataclasses import asdict

    from rich.table import Table

    from ..checkpoints import (
        Assumption,
        account,
        dtypes_of,
        open_checkpoint,
        parameter_count,
        parameter_shapes,
        shapes_of,
    )
    from ..checkpoints.formats.numerics import sources_of, with_numerics

    table = Table("field", "value", box=None, header_style="bold")
    ignored: dict[str, str] = {}
    assumed: tuple[Assumption, ...] = ()
    if is_path(target):
        checkpoint = open_checkpoint(target, **said.keywords())
        assumed = checkpoint.assumed
        config, name = checkpoint.config, checkpoint.name
        account(parameter_shapes(config), shapes_of(checkpoint.tensors), source=target)
        table.add_row("checkpoint", str(checkpoint.path))
        table.add_row("becomes", name or configs.name_of(config) or "a config that has no registered name")
        ignored = checkpoint.source.get("ignored", {})
        for key, value in checkpoint.source.items():
            if key not in ("ignored", "assumed"):
                table.add_row(f"source.{key}", str(value))
        table.add_row("types", ", ".join(sorted({str(dtype) for dtype in dtypes_of(checkpoint.tensors).values()})))
    else:
        config, name = said.registered(target, but=("numerics",)), target
        config = config if said.numerics is None else with_numerics(config, said.numerics, name=name)
        table.add_row("model", target)
        for published in _published(target):
            table.add_row("weights", published)
    table.add_row("family", configs.family(config))
    table.add_row("parameters", f"{parameter_count(config):,} in {len(parameter_shapes(config))} tensors")
    for fact, text in config.facts.items():
        table.add_row(fact, text)
    if config.numerics:
        table.add_row("numerics", ", ".join(f"{field}={getattr(config, field)}" for field in config.numerics))
        table.add_row("run so by", ", ".join(sources_of(config, name=name)) or "no known project")
    for field, value in _flat(asdict(config)).items():
        table.add_row(field, str(value))
    for assumption in assumed:
        table.add_row("assumed", str(assumption))
    for names, reason in not_used(ignored):
        table.add_row(escaped(f"not used: {names}"), escaped(reason))
    print_rich(table)
    return 0


def _published(name: str) -> list[str]:
    """Weights of a model on the Hub, as `info` and `convert` take them."""
    option = {True: "", False: f" --model {name}"}
    return [escaped(f"hf-hub:{found}{option[model_of(found) == name]}") for found in configs.hub_ids(name)]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, those of a part as `part.field`."""
    parts = {name: value if isinstance(value, dict) else {"": value} for name, value in fields.items()}
    return {f"{name}.{inner}".rstrip("."): value for name, part in parts.items() for inner, value in part.items()}
