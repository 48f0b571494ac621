"""Any checkpoint: recognising its format, opening it, converting it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...configs import close_match
from ..accounting import CheckpointError, account, expect_floats
from ..adapt import adapt
from ..checkpoint import Checkpoint
from ..containers.tensors import dtypes_of, open_tensors, shapes_of
from ..shapes import parameter_shapes
from . import google, hub, huggingface, meta, native, open_clip, run, timm, torchvision
from .numerics import with_numerics

# What a checkpoint can be written as.
FORMATS = {
    "native": native,
    "timm": timm,
    "huggingface": huggingface,
    "open_clip": open_clip,
    "torchvision": torchvision,
    "google": google,
    "meta": meta,
}
# What it can be read from: a run of our own, too.
SOURCES = FORMATS | {"run": run}
# Of lone files; one whose names fit none is timm's, or Meta's if PyTorch wrote it: DeiT and MAE have the same names.
_BY_NAMES = {
    "google": google.is_google,
    "torchvision": torchvision.is_torchvision,
    "open_clip": open_clip.has_open_clip_names,
    "meta": meta.is_meta,
}
_BY_DIRECTORY = {
    "native": native.is_native,
    "run": run.is_run,
    "timm": timm.is_timm,
    "huggingface": huggingface.is_huggingface,
    "open_clip": lambda path: (path / open_clip.DOCUMENT).is_file(),
    "torchvision": lambda path: (path / torchvision.DOCUMENT).is_file(),
    "meta": lambda path: (path / meta.DOCUMENT).is_file(),
}


def recognise(path: Path) -> str:
    """The format of a path, by its files.

    Raises:
        CheckpointError: No format that is known; says what was found.
    """
    if path.is_file():
        names = open_tensors(path)
        unmarked = "meta" if path.suffix in (".pt", ".pth") else "timm"
        return next((format for format, has_names_of in _BY_NAMES.items() if has_names_of(names)), unmarked)
    for format, is_format in _BY_DIRECTORY.items():
        if is_format(path):
            return format
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) if path.is_dir() else "no file"
    raise CheckpointError(
        f"{path}: not a checkpoint that is known: found {found or 'nothing'}; expected a directory of "
        f"{_listed(SOURCES)}, or a file of tensors: .safetensors, .bin, .pt, .pth or .npz"
    )


def open_checkpoint(
    path: str | Path, *, model: str | None = None, format: str | None = None, numerics: str | None = None
) -> Checkpoint:
    """Opens a checkpoint of any known format; no tensor is read yet.

    Args:
        path: A directory, a file of tensors, or `hf-hub:owner/name`, which is downloaded.
        model: The registered name, for a file that doesn't say it.
        format: One of `SOURCES`; recognised from the files by default.
        numerics: The project as whose model the weights are run, one of `parity.checkpoints.formats.numerics.SOURCES`; by
            default the one they come from.

    Raises:
        ValueError: An unknown format or project.
        CheckpointError: Not a checkpoint that is known, or a config that makes no model.
    """
    if format is not None and format not in SOURCES:
        raise ValueError(f"from: got {format!r}, expected one of {_listed(SOURCES)}{close_match(format, SOURCES)}")
    path = hub.download(str(path)) if str(path).startswith(hub.PREFIX) else Path(path)
    try:
        found = format or recognise(path)
        named = {} if found in ("native", "huggingface", "run") else {"model": model}
        checkpoint = SOURCES[found].read(path, **named)
    except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        # A document may hold anything in any place; what is read on the way to a config can't all be foreseen.
        raise CheckpointError(f"{path}: not a sound checkpoint: {type(error).__name__}: {error}") from error
    if numerics is None:
        return checkpoint
    config = with_numerics(checkpoint.config, numerics, name=checkpoint.name)
    return dataclasses.replace(checkpoint, config=config, source={**checkpoint.source, "numerics": numerics})


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to: str = "native",
    model: str | None = None,
    format: str | None = None,
    numerics: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
) -> Checkpoint:
    """Writes a checkpoint in another format, every tensor accounted for.

    Args:
        src: As `open_checkpoint` takes it.
        dst: The directory to write.
        to: One of `FORMATS`.
        model: As in `open_checkpoint`, like `format` and `numerics`.
        format: Of the source.
        numerics: Of the result.
        image_size: As in `adapt`, like what follows.
        patch_size: Another patch size.
        num_classes: Another head.
        global_pool: Another pooling.

    Returns:
        The source, as it was opened.

    Raises:
        ValueError: An unknown format or project, or sizes that make no model.
        CheckpointError: Tensors that don't fit, all in one report; nothing is written then.
    """
    if to not in FORMATS:
        raise ValueError(f"to: got {to!r}, expected one of {_listed(FORMATS)}{close_match(to, FORMATS)}")
    FORMATS[to].TARGET.check(dst, src)
    source = open_checkpoint(src, model=model, format=format, numerics=numerics)
    account(parameter_shapes(source.config), shapes_of(source.tensors), source=str(src))
    expect_floats(dtypes_of(source.tensors), source=str(src))
    config, tensors = adapt(
        source, image_size=image_size, patch_size=patch_size, num_classes=num_classes, global_pool=global_pool
    )
    origin = source.source if source.source else {"format": "vit-parity"}
    FORMATS[to].write(dst, config, tensors, name=source.name, source=origin)
    return source


def _listed(formats: dict) -> str:
    return ", ".join(formats)
