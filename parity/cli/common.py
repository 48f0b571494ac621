"""What the commands share; loads no framework."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from .. import configs

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..data import Source

Dtype = Literal["float64", "float32", "bfloat16"]
Framework = Literal["flax", "torch"]
Format = Literal["native", "timm", "huggingface", "open_clip", "torchvision", "google", "meta"]
From = Annotated[Format | Literal["run"] | None, tyro.conf.arg(name="from")]
# Of what isn't used, on a terminal.
_ROWS = 20


class _HeightByWidth(PrimitiveConstructorSpec):
    """`224x160`, as one word."""

    def __init__(self):
        super().__init__(
            nargs=1,
            metavar="HEIGHTxWIDTH",
            instance_from_str=lambda words: self._parsed(words[0]),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: ["x".join(map(str, value))],
        )

    def __repr__(self) -> str:
        return "HEIGHTxWIDTH"

    @staticmethod
    def _parsed(word: str) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+)x(\d+)", word)
        if found is None:
            raise ValueError(f"{word!r}: expected a number, two numbers, or HEIGHTxWIDTH")
        return int(found[1]), int(found[2])


# Height and width in pixels, wherever a size is given: `224`, `224 160` or `224x160`; one number is a square.
Size = int | tuple[int, int] | Annotated[tuple[int, int], _HeightByWidth()]
NumericsSource = Literal["timm", "google", "huggingface", "torchvision", "open_clip", "meta"] | None


def use_cpu_devices(num: int) -> None:
    """Makes JAX simulate that many devices on the CPU; must come before JAX is used.

    Raises:
        ValueError: JAX already runs with another number of devices.
    """
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", num)
    except RuntimeError:
        if jax.device_count() != num:
            raise ValueError(f"devices: got {num}, but JAX already runs with {jax.device_count()}") from None


def use_present_platform(default: str = "") -> None:
    """Keeps JAX from looking for a TPU that isn't there, which takes 20 s where libtpu is installed to compile for one.

    Args:
        default: The platform to take where the user named none; JAX's own choice if empty.
    """
    if "JAX_PLATFORMS" not in os.environ:
        devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
        os.environ["JAX_PLATFORMS"] = default or ("" if devices or find_spec("libtpu") is None else "cpu")


def is_path(target: str) -> bool:
    """Whether a target is meant as a path, or a name of the hub, and not as a registered name."""
    is_file = target not in configs.names() and Path(target).exists()
    return "/" in target or target.startswith((".", "hf-hub:")) or is_file


def check_classes(checkpoint: Checkpoint, source: Source, path: str) -> None:
    """Raises ValueError where a model's head and a data set don't go together: in number, or in the classes' order."""
    got, expected = checkpoint.config.num_classes, source.num_classes
    if not got:
        raise ValueError(f"{path}: got a model without a head, expected one of the {expected} classes of {source.name}")
    if got != expected:
        raise ValueError(f"{path}: got a head of {got} classes, but {source.name} has {expected}")
    source.check_labels(checkpoint.source.get("labels") or (), path)


def print_rich(item: Any, *, stderr: bool = False) -> None:
    """Prints text or a table by rich."""
    from rich.console import Console

    class ToPipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which is what models that part exit with

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal else 160
    ToPipe(stderr=stderr, soft_wrap=isinstance(item, str), highlight=False, width=width).print(item)


@contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Says each warning in one line, as errors are said, without its place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print_rich(
            f"[bold yellow]warning[/]: {escaped(message)}", stderr=True
        )
        yield


def not_used(ignored: Mapping[str, str]) -> list[tuple[str, str]]:
    """What of a file isn't used, and why: names that differ in numbers alone are one row, and of many rows the first.

    Args:
        ignored: Reason by name.

    Returns:
        Names with their count, and the reason; at the end how many more there are for each reason.
    """
    from ..checkpoints.name_groups import group_name, skeleton

    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in ignored.items():
        groups.setdefault((reason, skeleton(name)), []).append(name)
    found = [(group_name(names), reason, len(names)) for (reason, _), names in groups.items()]
    rows = [(f"{names} ({count})" if count > 1 else names, reason) for names, reason, count in found[:_ROWS]]
    rest: dict[str, int] = {}
    for _, reason, count in found[_ROWS:]:
        rest[reason] = rest.get(reason, 0) + count
    rows += [(f"... and {count} more", reason) for reason, count in list(rest.items())[:_ROWS]]
    return rows


def escaped(text: object) -> str:
    """Text in which rich takes no bracket for markup."""
    from rich.markup import escape

    return escape(str(text))
