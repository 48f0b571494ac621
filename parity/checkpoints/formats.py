"""Any checkpoint: recognising its format, opening it, converting it."""

from __future__ import annotations

from pathlib import Path

from ..configs import close_match
from . import native, timm
from .accounting import CheckpointError, account
from .native import Checkpoint
from .shapes import parameter_shapes
from .tensors import INDEX, WEIGHTS

FORMATS = {"native": native, "timm": timm}


def recognise(path: Path) -> str:
    """The format of a path, by its files.

    Raises:
        CheckpointError: No format that is known; says what was found.
    """
    if path.is_file() and (path.suffix == ".safetensors" or path.name == INDEX):
        return "timm"
    if native.is_native(path):
        return "native"
    if timm.is_timm(path):
        return "timm"
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) if path.is_dir() else path.suffix or "a file"
    raise CheckpointError(
        f"{path}: not a checkpoint that is known: found {found or 'nothing'}; expected a directory with config.json "
        f"and {WEIGHTS} (native or timm), or a .safetensors file"
    )


def open_checkpoint(path: str | Path, *, model: str | None = None) -> Checkpoint:
    """Opens a checkpoint of any known format; no tensor is read yet.

    Args:
        path: A native or timm directory, or a `.safetensors` file with timm's names.
        model: The registered name, for a file that doesn't say it.

    Raises:
        CheckpointError: Not a checkpoint that is known, or a config that makes no model.
    """
    path = Path(path)
    if recognise(path) == "native":
        return native.read(path)
    return timm.read(path, model=model)


def convert(src: str | Path, dst: str | Path, *, to: str = "native", model: str | None = None) -> Checkpoint:
    """Writes a checkpoint in another format, every tensor accounted for.

    Args:
        src: A checkpoint of any known format.
        dst: The directory to write.
        to: `native` or `timm`.
        model: The registered name, for a file that doesn't say it.

    Returns:
        The source, as it was opened.

    Raises:
        CheckpointError: Tensors that don't fit, all in one report; nothing is written then.
    """
    if to not in FORMATS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(FORMATS)}{close_match(to, FORMATS)}")
    source = open_checkpoint(src, model=model)
    account(parameter_shapes(source.config), source.tensors.shapes(), source=str(src))
    origin = source.source if source.source else {"format": "vit-parity"}
    FORMATS[to].write(dst, source.config, source.tensors, name=source.name, source=origin)
    return source
