"""What tensors leave open, settled: heads, the grid of positions, pooling, preprocessing.

Each function takes what a file shows and what the user gave (`parity.checkpoints.assumed.Given`), and answers with
fields of a config. Where only one value is usual it is assumed, and so listed; where two readings are, it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...configs import Config, Preprocessing, get, replace
from ...configs.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD
from ..accounting import CheckpointError
from ..assumed import Given, say

# Heads of the published models of each width, where the tensors don't show them. So400m and CLIP's giants have others.
NUM_HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1536: 24}
# For any number of channels, until the real one is known.
ANY_PREPROCESSING = Preprocessing(mean=(0.5,), std=(0.5,), crop_pct=1.0, crop_mode="squash")
# What pretrained models are usually evaluated with, and who does so.
IMAGENET = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
PLUS_MINUS_ONE = Preprocessing(mean=HALF, std=HALF)


def heads_of(given: Given, dim: int, *, path: Path, shown: int | None = None) -> int:
    """Attention heads.

    Args:
        given: What the user says.
        dim: Width of the tokens.
        path: What errors call the file.
        shown: What the tensors or a document show, if they do.

    Raises:
        CheckpointError: The named model has another width, or none is named and no published model has this one.
    """
    if shown is not None:
        return given.settle("num_heads", shown=shown, path=path)
    how = say("num_heads", value="N")
    if "num_heads" not in given.fields and given.like is not None and given.like.embed_dim != dim:
        got = f"named model: {given.like.embed_dim}, file: {dim}"
        raise CheckpointError(f"{path}: embed_dim: {got}; the tensors don't show the number of heads: {how}")
    if not given.says("num_heads") and dim not in NUM_HEADS:
        widths = ", ".join(map(str, NUM_HEADS))
        raise CheckpointError(
            f"{path}: the tensors don't show the number of heads, and embed_dim {dim} is none of {widths}; {how}, or "
            "name the model, such as --model NAME"
        )
    heads = given.settle("num_heads", usual=NUM_HEADS.get(dim), why=f"from width {dim}", path=path)
    if not isinstance(heads, int) or heads < 1 or dim % heads:
        raise CheckpointError(f"{path}: num_heads: got {heads!r}, expected a divisor of embed_dim {dim}")
    return heads


def grid_of(
    given: Given,
    count: int,
    patch_size: tuple[int, int],
    prefixes: Mapping[str, int],
    *,
    path: Path,
    known: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The image size and which prefix tokens have a position, from the number of positions.

    Args:
        given: What the user says.
        count: Entries of the position embedding.
        patch_size: Height and width of a patch.
        prefixes: How many of them are of prefix tokens, for each value of `pos_embed_prefix` that is possible, the
            usual one first.
        path: What errors call the file.
        known: The image size that the file's documents say.

    Returns:
        `image_size`, `drop_partial_patches` and `pos_embed_prefix`.

    Raises:
        CheckpointError: What the user says doesn't fit the number, or several grids do.
    """
    if (prefix := given.take("pos_embed_prefix")) is not None:
        prefixes = {prefix: prefixes.get(prefix, 0)}
    elif given.like is not None and (own := given.like.pos_embed_prefix) in prefixes:
        prefixes = {own: prefixes[own]} | dict(prefixes)
    patches = {name: count - number for name, number in prefixes.items()}
    for size, from_field in _sizes(given, patch_size, known):
        grid = (size[0] // patch_size[0], size[1] // patch_size[1])
        fits = [name for name, number in patches.items() if number == math.prod(grid)]
        # A square that is to be resized is a square all the same.
        if from_field == "target" and fits and grid[0] != grid[1] and is_square(patches[fits[0]]):
            continue
        if fits:
            kept = given.like.pos_embed_prefix if given.like is not None and from_field == "model" else fits[0]
            return _grid(size, patch_size, kept if kept in fits else fits[0])
        if from_field in ("field", "document"):
            numbers = " or ".join(str(number) for number in dict.fromkeys(patches.values()))
            raise CheckpointError(
                f"{path}: image_size: got {size}, a grid of {grid[0]} x {grid[1]}, but the file has {numbers} "
                "positions of patches; --set image_size is the size that the file is for, --image-size another to have"
            )
    return _square(given, patches, prefixes, patch_size, path=path)


def _square(
    given: Given,
    patches: Mapping[str, int],
    prefixes: Mapping[str, int],
    patch_size: tuple[int, int],
    *,
    path: Path,
) -> dict[str, Any]:
    """The square grid where no size is said, if that is the usual one of the readings."""
    squares = {name: math.isqrt(number) for name, number in patches.items() if is_square(number)}
    if not squares:
        number, or_name = next(iter(patches.values())), "" if given.like is not None else "a model's name, or "
        raise CheckpointError(
            f"{path}: got {number} positions of patches, expected a square grid, or {or_name}the image size that the "
            f"file is for: {say('image_size', value='HEIGHTxWIDTH')}"
        )
    name, side = next(iter(squares.items()))
    usual = next(iter(patches))
    count = patches[name] + prefixes[name]
    if patches[name] != patches[usual]:
        first, second = say("pos_embed_prefix", value=name), say("image_size", value="HEIGHTxWIDTH")
        raise CheckpointError(
            f"{path}: {count} positions are those of {side} x {side} patches and of {prefixes[name]} tokens before "
            f"them, or of {patches[usual]} patches and of {prefixes[usual]} tokens; for the first {first}, for the "
            f"second {second}"
        )
    size = (side * patch_size[0], side * patch_size[1])
    given.assume("image_size", size, f"from {side * side} positions of patches, a square")
    return _grid(size, patch_size, name)


def _sizes(
    given: Given, patch_size: tuple[int, int], known: tuple[int, int] | None
) -> Sequence[tuple[tuple[int, int], str]]:
    """The image sizes that are said in one way or another, the firmest first."""
    found = []
    if (size := given.take("image_size")) is not None:
        return [(tuple(size), "field")]
    if known is not None:
        return [(known, "document")]
    if given.like is not None and given.like.patch_size == patch_size:
        found.append((given.like.image_size, "model"))
    if given.target_size is not None:
        found.append((given.target_size, "target"))
    return found


def _grid(size: tuple[int, int], patch_size: tuple[int, int], prefix: str) -> dict[str, Any]:
    partial = any(side % patch for side, patch in zip(size, patch_size, strict=True))
    return dict(image_size=size, drop_partial_patches=partial, pos_embed_prefix=prefix)


def is_square(number: int) -> bool:
    """Whether a number of patches may be a square grid's."""
    return number > 0 and math.isqrt(number) ** 2 == number


def pool_of(
    given: Given, *, class_token: bool, dist_token: bool, fc_norm: bool, attn_pool: bool, doubled: bool, known: str = ""
) -> str:
    """How tokens are pooled.

    Args:
        given: What the user says.
        class_token: Whether there is one.
        dist_token: Whether there is DeiT's second one.
        fc_norm: Whether a norm follows the pooling, which is usual for the mean alone.
        attn_pool: Whether the tensors of attention pooling are there.
        doubled: Whether the head takes two features side by side.
        known: What the names or documents of the file say.
    """
    if attn_pool or doubled or dist_token:
        return given.settle("global_pool", shown="map" if attn_pool else "token_avg" if doubled else "token")
    if known or "global_pool" in given.fields:
        return given.take("global_pool", known)
    like = given.like
    possible = like is not None and like.global_pool in (("token", "avg", "none") if class_token else ("avg", "none"))
    if like is not None and possible and like.fc_norm == fc_norm:
        return like.global_pool
    if not class_token:
        return given.assume("global_pool", "avg", "there is no class token")
    if fc_norm:
        return given.assume("global_pool", "avg", "there is a norm over the pooled features, fc_norm")
    return given.assume("global_pool", "token", "there is a class token, and no fc_norm")


def images_of(
    given: Given, in_chans: int, *, known: Preprocessing | None = None, usual: Preprocessing, why: str
) -> Preprocessing:
    """The preprocessing, with as many channels as the model has.

    Args:
        given: What the user says.
        in_chans: Channels of the model.
        known: What the names or documents of the file say.
        usual: What to assume.
        why: The reason.
    """
    if "preprocessing" in given.fields:
        return given.take("preprocessing")
    said = known or (given.model.preprocessing if given.model is not None else None)
    images = for_channels(said or usual, in_chans)
    if said is not None and images == said:
        return said
    return given.assume("preprocessing", images, why if said is None else f"of its kind, for in_chans {in_chans}")


def for_channels(images: Preprocessing, in_chans: int) -> Preprocessing:
    """Preprocessing with a mean and a deviation for each channel; those of grey are the means over colours."""
    if len(images.mean) in (1, in_chans):
        return images
    mean, std = (sum(values) / len(values) for values in (images.mean, images.std))
    return replace(images, mean=(mean,), std=(std,))


def fits(name: str, config: Config) -> str:
    """The name of a model that was named, if the config is that model in everything but its input and its outputs."""
    if not name or type(get(name)) is not type(config):
        return ""
    registered = get(name)
    own = {field: value for field, value in vars(registered).items() if field not in _FREE}
    same = all(getattr(config, field) == value for field, value in own.items())
    scaled = [getattr(each, "layer_scale_init", None) is not None for each in (config, registered)]
    return name if same and scaled[0] == scaled[1] else ""


# Fields that fine-tuning changes, that projects choose for themselves, and such as change no output.
_FREE = (
    "image_size",
    "patch_size",
    "act",
    "norm_eps",
    "window_fit",
    "shift_mask",
    "in_chans",
    "num_classes",
    "drop_partial_patches",
    "dynamic_image_size",
    "global_pool",
    "fc_norm",
    "final_norm",
    "head_bias",
    "layer_scale_init",
    "pos_embed_resize",
    "patch_resize",
    "rel_pos_resize",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "preprocessing",
)
