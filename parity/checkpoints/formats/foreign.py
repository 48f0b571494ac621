"""What foreign formats share: configs from names and shapes, and the check that a format can say what a model is."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...configs import Config, VitConfig, get, name_of, replace
from ..accounting import LINES, CheckpointError, cut
from ..assumed import AnyConfig, Given
from ..checkpoint import Checkpoint
from ..containers.document import read_json
from ..shapes import Shape
from .numerics import FIELDS
from .settled import fits
from .translate import FilledEntry, Ours, Unused
from .weights import Weights

# What a file of tensors alone can't say and what changes no output at the size that the file is for.
NOT_IN_TENSORS = (
    "preprocessing",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "pos_embed_resize",
    "patch_resize",
    "rel_pos_resize",
)


def checkpoint_of(
    weights: Weights,
    given: Given,
    config: Config,
    filled: Sequence[FilledEntry],
    *,
    path: Path,
    unused: Sequence[Unused] = (),
    ignored: Mapping[str, str] | None = None,
    name: str | None = None,
    format: str,
) -> Checkpoint:
    """A checkpoint whose tensors are those of a foreign file; none is read.

    Args:
        weights: The tensors of the foreign file.
        given: What the user said, and what was assumed.
        config: The config of the model.
        filled: Where each tensor is kept.
        path: What was opened.
        unused: What else may be there.
        ignored: Why parts of the file are left out besides.
        name: The registered name of the model; that of its config or of the model that was named by default.
        format: The format's name.

    Raises:
        CheckpointError: Missing, unexpected or misshapen tensors.
    """
    named: dict[str, Any] = dict(source=str(path), called=weights.called, unread=weights.unread)
    ours = Ours(filled, weights.tensors, unused=unused, **named)
    source: dict[str, Any] = {"format": format, "path": str(path)}
    if weights.prefix:
        source["prefix"] = weights.prefix
    if weights.head:
        source["head"] = weights.head
    if left_out := {**weights.ignored, **(ignored or {}), **ours.ignored}:
        source["ignored"] = left_out
    if name is None:
        name = fits(given.name, config) or name_of(config)
    return Checkpoint(path, config, name, source, ours, tuple(given.assumed))


def read_document(path: Path, document: str, field: str) -> dict[str, Any]:
    """What we wrote beside foreign tensors, which don't say all of a config; nothing for a lone file.

    Args:
        path: What was opened.
        document: Name of the JSON file.
        field: The object that it must have.

    Raises:
        CheckpointError: A file that isn't what we write.
    """
    file = path / document
    if not path.is_dir() or not file.is_file():
        return {}
    data = read_json(file)
    if not isinstance(data.get(field), dict):
        raise CheckpointError(f"{file}: got no object {field}, expected what vit-parity writes beside the tensors")
    return data


def hold_against(
    config: VitConfig, understand: Callable[[], VitConfig], *, path: Path, format: str, free: Sequence[str] = ()
) -> None:
    """Checks that a reader of what is written would make the same model of it.

    Args:
        config: The config of the model to write.
        understand: Makes what the reader would take it for.
        path: What is to be written, for the error.
        format: The format's name.
        free: Fields that may differ besides those of `NOT_IN_TENSORS`.

    Raises:
        CheckpointError: Fields that the format can't express; names each with both values.
    """

    def shown(config: VitConfig) -> dict[str, Any]:
        # Of the input a format of tensors shows the grid, and of LayerScale that it is there, not where it began.
        fields = essence(config, free=("image_size", "drop_partial_patches", *free))
        return fields | {"grid_size": config.grid_size, "layer_scale_init": config.layer_scale_init is not None}

    try:
        got, expected = shown(config), shown(understand())
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: the {format} format can't express this config: {reason}") from None
    changed = [name for name in got if got[name] != expected[name]]
    if changed:
        differs = [f"{name}: got {got[name]!r}, expected {expected[name]!r}" for name in changed]
        hint = f"\n--numerics {format.lower()} takes its own" if all(name in FIELDS for name in changed) else ""
        raise CheckpointError(
            f"{path}: the {format} format can't express this config\n  {cut(differs, between=LINES)}{hint}"
        )


def essence(config: Config, *, free: Sequence[str] = ()) -> dict[str, Any]:
    """What a config says of a model's outputs: equal models have equal ones, however their fields say it.

    Args:
        config: The config of the model.
        free: Fields that a format can't say, besides those of `NOT_IN_TENSORS`.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not isinstance(config, VitConfig):
        return {name: value for name, value in fields.items() if name not in (*NOT_IN_TENSORS, *free)}
    if config.kv_heads == (config.num_heads,) * config.depth:
        fields |= dict(num_kv_heads=None, qkv_fused=True)
    if not config.qkv_bias:
        fields["k_bias"] = True
    if not config.num_classes:
        fields["head_bias"] = True
    pools = config.global_pool == "map"
    fields["attn_pool_heads"] = (config.attn_pool_heads or config.num_heads) if pools else None
    fields["attn_pool_mlp_dim"] = (config.attn_pool_mlp_dim or config.mlp_dim) if pools else None
    if not config.num_prefix_tokens or config.global_pool in ("token", "none"):
        fields["pool_include_prefix"] = False
    # A fixed table has none for them, and what it would be is no tensor.
    del fields["pos_embed_prefix"]
    fields["num_pos_embed_prefix"] = config.num_pos_embed_prefix if config.pos_embed == "learned" else 0
    if all(image % patch == 0 for image, patch in zip(config.image_size, config.patch_size, strict=True)):
        fields["drop_partial_patches"] = False
    return {name: value for name, value in fields.items() if name not in (*NOT_IN_TENSORS, *free)}


def depth_of(names: Iterable[str], pattern: str) -> int:
    """Number of blocks: of the different numbers that the pattern's group finds at the start of a name."""
    found = (re.match(pattern, name) for name in names)
    return len({match.group(1) for match in found if match})


def shape_of(shapes: Mapping[str, Shape], name: str, axes: int, *, path: Path) -> Shape:
    """Shape of a tensor that a config is made of.

    Raises:
        CheckpointError: It isn't there, has another number of axes, or one of size 0.
    """
    if name not in shapes:
        raise CheckpointError(f"{path}: missing {name}, which says how large the model is")
    shape = tuple(shapes[name])
    if len(shape) != axes or 0 in shape:
        raise CheckpointError(f"{path}: misshapen {name}: got {list(shape)}, expected {axes} axes")
    return shape


def make(path: Path, **fields: Any) -> VitConfig:
    """The config of some fields.

    Raises:
        CheckpointError: They make no model; names the file and the field.
    """
    # A stacked tensor of a few bytes could ask for millions of blocks.
    if fields.get("depth", 1) > _MAX_DEPTH:
        raise CheckpointError(f"{path}: got {fields['depth']} blocks, expected at most {_MAX_DEPTH}")
    return made(path, functools.partial(replace, _PLAIN), fields)


def made(path: Path, make: Callable[..., AnyConfig], fields: Mapping[str, Any]) -> AnyConfig:
    """What a config's class makes of some fields.

    Raises:
        CheckpointError: They make no model; names the file and the field.
    """
    try:
        return make(**fields)
    except (ValueError, TypeError) as error:  # TypeError: a document may have anything for a number
        raise CheckpointError(f"{path}: {error}") from None


def expect_family(given: Given, family: type[Config], *, path: Path, what: str) -> None:
    """Whether the model that the user names, if there is one, is of the family of a file.

    Args:
        given: What the user says.
        family: The class of the file's config.
        path: What errors call the file.
        what: What the file is, with its article.

    Raises:
        CheckpointError: It isn't.
    """
    if given.model is not None and not isinstance(given.model, family):
        raise CheckpointError(f"{path}: the file is {what}; leave the model's name out, or name {what}")


_MAX_DEPTH = 1024
_PLAIN = VitConfig.of(get("vit_base_patch16_224"))
