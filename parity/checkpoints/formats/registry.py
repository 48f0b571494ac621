"""Any checkpoint: recognising its format, opening it, converting it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...configs import Config, close_match, family, hub_ids, names
from ..accounting import CheckpointError, account, cut, expect_floats
from ..adapt import adapt
from ..assumed import Given, warn_of, with_fields
from ..checkpoint import Checkpoint
from ..containers.document import read_json
from ..containers.tensors import dtypes_of, shapes_of
from ..shapes import parameter_shapes
from . import (
    google,
    hub,
    huggingface,
    meta,
    microsoft,
    native,
    open_clip,
    open_clip_config,
    own_names,
    run,
    timm,
    torchvision,
)
from .meta_names import is_meta
from .numerics import FIELDS, with_numerics
from .opened import Opened
from .weights import OWNERS

# What a checkpoint can be written as.
FORMATS = {
    "native": native,
    "timm": timm,
    "huggingface": huggingface,
    "open_clip": open_clip,
    "torchvision": torchvision,
    "google": google,
    "meta": meta,
    "microsoft": microsoft,
}
# What it can be read from: a run of our own, too.
SOURCES = FORMATS | {"run": run}
# What no user says: that of a file of tensors alone.
_OWN_NAMES = "own names"
# What calls tensors as we do, and holds every family.
_CANONICAL = ("native",)
# What says all of a model, so that nothing is asked or assumed.
_WHOLE = ("native", "run")
_BY_DIRECTORY = {
    "native": native.is_native,
    "run": run.is_run,
    "timm": timm.is_timm,
    "huggingface": huggingface.is_huggingface,
    "open_clip": open_clip.is_open_clip,
    "torchvision": lambda path: (path / torchvision.DOCUMENT).is_file(),
    "meta": lambda path: (path / meta.DOCUMENT).is_file(),
    "microsoft": lambda path: (path / microsoft.DOCUMENT).is_file(),
}
# What a directory may hold without a document that says whose it is.
_LONE = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".ckpt", ".msgpack", ".tar", ".pkl")
# What Accelerate, transformers' Trainer and DeepSpeed put beside the weights, and a shard of something.
_BESIDE = re.compile(
    r"(?:optimizer|scheduler|scaler|sampler|dl_state_dict|rng_state|random_states|training_args|custom_checkpoint)"
    r"[\w-]*\.\w+|.*optim_states\.pt|.*-\d+-of-\d+\..*"
)
# Directories whose files are parts of arrays, by one of the names in them: what they are, and how to get a file of it.
_SHARDED = {
    "*.distcp": (
        "a checkpoint of torch.distributed",
        "make it one file: python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY FILE",
    ),
    "manifest.ocdbt": (
        "a checkpoint of Orbax",
        "restore it with Orbax and save its arrays by name: flax.serialization.msgpack_serialize or numpy.savez",
    ),
}
_LISTED = 8
_MANY = 1000


def recognise(opened: Opened, model: Config | None = None) -> str:
    """The format of a path: of a directory by its documents, of tensors alone by their names.

    A directory without a document and with one file of tensors is that file.

    Args:
        opened: The path.
        model: The named model, if there is one: tensors alone of one that no other project's format has are ours.

    Raises:
        CheckpointError: No format that is known; says what was found.
    """
    path = opened.path
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory{_published(str(path))}")
    if path.is_dir():
        for format, is_format in _BY_DIRECTORY.items():
            if is_format(path):
                return format
        opened.path = _lone_file(path)
    if model is not None and not any(
        isinstance(model, FORMATS[name].HOLDS) for name in FORMATS if name not in _CANONICAL
    ):
        return _OWN_NAMES
    weights = opened.weights()
    if weights.kind != "canonical":
        return OWNERS.get(weights.kind, weights.kind)
    if microsoft.is_microsoft(weights.shapes):
        return "microsoft"
    return "meta" if is_meta(weights.shapes) else "timm"


def _published(name: str) -> str:
    """A phrase for an error message: where the weights of a model are, if a name rather than a path was given."""
    if name not in names():
        return ""
    published = [f"hf-hub:{repository}" for repository in hub_ids(name)]
    return f"; {name} is a model, and its weights are " + (published[0] if published else "in no place that is known")


def _lone_file(path: Path) -> Path:
    """The only file of tensors in a directory that has no document."""
    names = [child.name for child in itertools.islice(path.iterdir(), _MANY)]
    files = [name for name in sorted(names) if name.endswith(_LONE) and not _BESIDE.fullmatch(name)]
    files = [name for name in sorted(names) if name.endswith(".index.json")] or files
    config = path / native.CONFIG
    if config.is_file():
        keys = ", ".join(list(read_json(config))[:_LISTED])
        expected = "`model_type` (transformers), `architecture` (timm) or `format` (vit-parity)"
        alone = f"; to read the tensors without it, name their file: {path / files[0]}" if files else ""
        raise CheckpointError(
            f"{config}: got {f'the keys {keys}' if keys else 'no keys'}, expected {expected} among them{alone}"
        )
    if len(files) == 1:
        return path / files[0]
    if files:
        raise CheckpointError(f"{path}: {len(files)} files of tensors and no config.json; name one of {cut(files)}")
    for mark, (what, how) in _SHARDED.items():
        if any(fnmatchcase(name, mark) for name in names):
            raise CheckpointError(f"{path}: {what}, whose parts aren't read one by one; {how}")
    found = ", ".join(sorted(names)[:_LISTED])
    inside = [str(child.relative_to(path)) for child in _folders(path)]
    raise CheckpointError(
        f"{path}: not a checkpoint that is known: found {found or 'nothing'}; expected a directory of "
        f"{_listed(SOURCES)}, or a file of tensors: .safetensors, .bin, .pt, .pth, .npz or .msgpack"
        + (f"; name one of the directories in it: {cut(inside)}" if inside else "")
    )


def _folders(path: Path) -> list[Path]:
    """Directories in one that have a document or tensors: of training's steps, or of the revisions in a hub's cache."""
    children = [*itertools.islice(path.iterdir(), _MANY), *itertools.islice(path.glob("snapshots/*"), _MANY)]
    return [
        child
        for child in sorted(children)
        if child.is_dir()
        and any(file.name.endswith((".json", *_LONE)) for file in itertools.islice(child.iterdir(), _MANY))
    ]


def open_checkpoint(
    path: str | Path,
    *,
    model: str | Config | None = None,
    format: str | None = None,
    numerics: str | None = None,
    prefix: str | None = None,
    ignore: Sequence[str] = (),
    target_size: int | tuple[int, int] | None = None,
    **fields: Any,
) -> Checkpoint:
    """Opens a checkpoint of any known format; no tensor is read yet.

    Args:
        path: A directory, a file of tensors, or `hf-hub:owner/name`, which is downloaded; `~` is the user's directory.
        model: A registered name, one of open_clip's such as `ViT-B-32-quickgelu`, or a config, for what a file doesn't
            say of itself.
        format: One of `SOURCES`; recognised from the files by default.
        numerics: The project as whose model the weights are run, one of `numerics.SOURCES` beside this module; by
            default the one they come from.
        prefix: What the names of the model begin with, such as `teacher.backbone.`, where a file has several.
        ignore: Shell-style patterns of tensors to leave out, such as `criterion.*`.
        target_size: The image size that is wanted in the end: of several grids that a file's positions can have, the
            one that fits is taken. Nothing is resized here.
        fields: Config fields that the file doesn't say, such as `num_heads=4`; `image_size` is the file's own.

    Returns:
        The checkpoint; what nothing said of it is in its `assumed`.

    Raises:
        ValueError: An unknown format, project, model or field.
        CheckpointError: Not a checkpoint that is known, a config that makes no model, a contradiction between what is
            said and the file, or something that has to be said.
    """
    if format is not None and format not in SOURCES:
        raise ValueError(f"from: got {format!r}, expected one of {_listed(SOURCES)}{close_match(format, SOURCES)}")
    of_open_clip = open_clip_config.named(model) if isinstance(model, str) else None
    given = Given(of_open_clip or model, fields, target_size=target_size)
    path = hub.download(str(path)) if str(path).startswith(hub.PREFIX) else Path(path).expanduser()
    opened = Opened(path, prefix=prefix, ignore=(ignore,) if isinstance(ignore, str) else tuple(ignore))
    try:
        found = format or recognise(opened, given.model)
        if found in _WHOLE and (prefix or ignore):
            word = "prefix" if prefix else "ignore"
            raise CheckpointError(
                f"{path}: {word}: got {prefix or ignore!r}, but a {found} checkpoint is one model; leave it out"
            )
        arguments = (path,) if found in _WHOLE else (opened, given)
        reader: Any = own_names if found == _OWN_NAMES else SOURCES[found]
        checkpoint = reader.read(*arguments)
        checkpoint = _with_rest(checkpoint, given)
    except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        # A document may hold anything in any place; what is read on the way to a config can't all be foreseen.
        raise CheckpointError(f"{path}: not a sound checkpoint: {type(error).__name__}: {error}") from error
    return checkpoint if numerics is None else _with_numerics(checkpoint, numerics)


def open_to_load(
    path: str | Path | Checkpoint,
    *,
    image_size: int | tuple[int, int] | None,
    global_pool: str | None,
    **said: Any,
) -> Checkpoint:
    """A checkpoint, with a warning of what was assumed of it; what is opened already is taken as it is.

    Args:
        path: A path as `open_checkpoint` takes it, or what it gave.
        image_size: The image size that is wanted in the end, like `global_pool`; neither is an assumption then.
        global_pool: The pooling that is wanted in the end.
        said: Keywords of `open_checkpoint`.

    Raises:
        CheckpointError: The same as from `open_checkpoint`.
    """
    if isinstance(path, Checkpoint):
        return path
    checkpoint = open_checkpoint(path, target_size=image_size, **said)
    known = {"image_size": image_size, "global_pool": global_pool}
    assumed = [item for item in checkpoint.assumed if known.get(item.field) is None]
    warn_of(assumed, path=path, named=said.get("model") is not None, stacklevel=4)
    return checkpoint


def _with_rest(checkpoint: Checkpoint, given: Given) -> Checkpoint:
    """The checkpoint with the fields that reading left, as far as they go with its tensors.

    Raises:
        CheckpointError: Fields that ask for other tensors, or a named model of another width.
    """
    config, like, rest = checkpoint.config, given.model, given.rest()
    if like is not None and type(like) is not type(config):
        got = f"named model: {family(like)}, file: {family(config)}"
        raise CheckpointError(f"{checkpoint.path}: family: got {got}; leave the name out, or name another model")
    named, found = (getattr(each, "embed_dim", None) for each in (like, config))
    if like is not None and named != found and not {"embed_dim", "num_heads"} & given.fields.keys():
        got = f"named model: {named}, file: {found}"
        raise CheckpointError(f"{checkpoint.path}: embed_dim: {got}; leave the name out, or name another model")
    # What a native file kept as assumed wasn't held against the named model yet.
    left = [item.beside(rest, None if item in given.assumed else like) for item in checkpoint.assumed]
    checkpoint = dataclasses.replace(checkpoint, assumed=tuple(filter(None, left)))
    if not rest:
        return checkpoint
    try:
        config = with_fields(config, rest)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    expected, found = parameter_shapes(config), parameter_shapes(checkpoint.config)
    if expected != found:
        names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
        shapes = f"{found.get(names[0], 'no tensor')} in the file, {expected.get(names[0], 'none')} with it"
        resize = "; another size is --image-size (image_size= of load)" if "image_size" in rest else ""
        raise CheckpointError(
            f"{checkpoint.path}: {', '.join(f'{field}={value}' for field, value in rest.items())}: the tensors don't "
            f"go with it: {names[0]}: {shapes}{resize}"
        )
    return dataclasses.replace(checkpoint, config=config)


def _with_numerics(checkpoint: Checkpoint, numerics: str) -> Checkpoint:
    """The checkpoint as another project would run it, which then is no assumption."""
    config = with_numerics(checkpoint.config, numerics, name=checkpoint.name)
    source = {**checkpoint.source, "numerics": numerics}
    assumed = tuple(item for item in checkpoint.assumed if item.field not in FIELDS)
    return dataclasses.replace(checkpoint, config=config, source=source, assumed=assumed)


def convert(
    src: str | Path | Checkpoint,
    dst: str | Path,
    *,
    to: str = "native",
    model: str | Config | None = None,
    format: str | None = None,
    numerics: str | None = None,
    prefix: str | None = None,
    ignore: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: str | None = None,
    **fields: Any,
) -> Checkpoint:
    """Writes a checkpoint in another format, every tensor accounted for.

    Args:
        src: A path as `open_checkpoint` takes it, or what that has opened with the file's own `image_size`.
        dst: The directory to write.
        to: One of `FORMATS`.
        model: What the source doesn't say of itself, as in `open_checkpoint`, like the next four and `fields`.
        format: The format of the source.
        numerics: The numerics of the result.
        prefix: What the model's names begin with.
        ignore: Tensors to leave out.
        image_size: The image size of the result, as in `adapt`, like the next three.
        patch_size: Another patch size.
        num_classes: Another head.
        global_pool: Another pooling.
        fields: Config fields.

    Returns:
        The source, as it was opened.

    Raises:
        ValueError: An unknown format or project, or sizes that make no model.
        CheckpointError: Tensors that don't fit, all in one report; nothing is written then.
    """
    if to not in FORMATS:
        raise ValueError(f"to: got {to!r}, expected one of {_listed(FORMATS)}{close_match(to, FORMATS)}")
    FORMATS[to].TARGET.check(dst, src.path if isinstance(src, Checkpoint) else src)
    if isinstance(src, Checkpoint):
        source = src
    else:
        said: dict[str, Any] = dict(model=model, format=format, numerics=numerics, prefix=prefix, ignore=ignore)
        source = open_checkpoint(src, target_size=image_size, **said, **fields)
    _check_holds(source.config, to)
    account(parameter_shapes(source.config), shapes_of(source.tensors), source=str(source.path))
    expect_floats(dtypes_of(source.tensors), source=str(source.path))
    config, tensors = adapt(
        source, image_size=image_size, patch_size=patch_size, num_classes=num_classes, global_pool=global_pool
    )
    origin: dict[str, Any] = dict(source.source or {"format": "vit-parity"})
    if source.assumed:
        origin["assumed"] = [assumption.to_json() for assumption in source.assumed]
    FORMATS[to].write(dst, config, tensors, name=source.name, source=origin)
    return source


def _check_holds(config: Config, to: str) -> None:
    """Raises ValueError where a format has no names for the tensors of a config's family."""
    if not isinstance(config, FORMATS[to].HOLDS):
        can = [name for name, format in FORMATS.items() if isinstance(config, format.HOLDS)]
        which = f"which has no models of family {family(config)!r}"
        raise ValueError(f"to: got {to!r}, {which}; expected {' or '.join(can)}")


def _listed(formats: dict) -> str:
    return ", ".join(formats)
