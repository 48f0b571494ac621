"""Google's ViTs: the `.npz` files of `vision_transformer` (vit_jax) and big_vision, of every age.

The names grew with the code: flax numbered layers within a block one after another and later for each kind; positions
were a layer of their own, then a parameter of the encoder, then of the model; the tree was the file's root, then
`params/` or `opt/target/`, with `img/` in two-tower models; blocks came one by one or stacked for a scan; attention
pooling was inlined at first. A file says its own names, so reading makes the table from them. Numerics are
big_vision's: tanh GELU, epsilon 1e-6, positions resized with `scipy.ndimage.zoom`. Preprocessing isn't in a file:
[-1, 1], and a central crop of a resized image for classifiers, a squashed one for two-tower models.

Source: big_vision `models/vit.py` (`fix_old_checkpoints`), `utils.py`; vision_transformer `vit_jax/checkpoint.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np

from ... import outputs
from ...configs import Config, Preprocessing, VitConfig
from ...configs.preprocessing import HALF
from ..accounting import CheckpointError
from ..assumed import Given, say
from ..checkpoint import Checkpoint
from ..containers.files import File
from ..containers.overlay import Overlay
from ..containers.stored import FileTensors, shapes_of
from ..shapes import Shape
from . import google_bit
from .foreign import checkpoint_of, depth_of, hold_against, make, shape_of
from .opened import Opened
from .settled import grid_of, heads_of, images_of, is_square
from .translate import Entry, Theirs, Unused, fill

SUFFIX = ".npz"
# Of the archive: that the file isn't its owner's original. NumPy doesn't look at it.
_COMMENT = b"written by vit-parity"
_KERNEL = "embedding/kernel"
_POSITIONS = ("pos_embedding", "Transformer/pos_embedding", "Transformer/posembed_input/pos_embedding")

UNUSED = (Unused(r"(params/)?(txt/.*|t|b)", "text tower, temperature and bias of a two-tower model"),)


@dataclass(frozen=True)
class Names:
    """How a file names what all of them have.

    Attributes:
        prefix: What stands before every name.
        stacked: Whether the blocks are one tensor each.
        attention: The attention of a block.
        norm2: The second norm of a block.
        mlp: The MLP of a block.
        positions: The position embedding.
        pool: What stands before the names of attention pooling.
        stem_depths: Blocks of each stage of a hybrid's ResNet; None of a flat ViT.
        group_norm: The layout of its norms, whose arrays had three axes of 1 in front before Flax's Linen.
    """

    prefix: str = "params/"
    stacked: bool = False
    attention: str = "MultiHeadDotProductAttention_0"
    norm2: str = "LayerNorm_1"
    mlp: str = "MlpBlock_0"
    positions: str = "pos_embedding"
    pool: str = "MAPHead_0/"
    stem_depths: tuple[int, ...] | None = None
    group_norm: str = ""

    @property
    def block(self) -> str:
        """What stands before the names of block `{i}`."""
        return f"{self.prefix}Transformer/encoderblock{'' if self.stacked else '_{i}'}/"


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens a `.npz` file, or the same names in another container; no tensor is read but positions with one too many.

    Args:
        opened: The file.
        given: What the user says.

    Raises:
        CheckpointError: Not a flat ViT of Google's, or tensors that don't fit.
    """
    path, weights = opened.path, opened.weights("google")
    # In a file of nested dictionaries the path is dotted.
    arrays = {name.replace(".", "/"): array for name, array in weights.tensors.arrays.items()}
    tensors: Mapping[str, np.ndarray] = FileTensors(weights.path, arrays)
    ignored: dict[str, str] = {}
    names = _names(shapes_of(tensors), path)
    if "cls" not in arrays and names.positions in arrays:
        shape = shape_of(shapes_of(tensors), names.positions, 3, path=path)
        if _has_row_of_class(shape[1], shapes_of(tensors), given, path):
            tensors = Overlay(tensors, {names.positions: tensors[names.positions][:, 1:]})
            ignored[f"{weights.called(names.positions)}[:, 0]"] = (
                "position of a class token that the model doesn't have"
            )
    config = _config(shapes_of(tensors), names, given, path, two_towers=weights.prefix.endswith(("img/", "img.")))
    weights = replace(weights, tensors=tensors)
    table = list(_table(names))
    filled = fill(table, config, source=str(path))
    return checkpoint_of(weights, given, config, filled, path=path, unused=UNUSED, ignored=ignored, format="google")


def _has_row_of_class(count: int, shapes: Mapping[str, Shape], given: Given, path: Path) -> bool:
    """Whether a model without a class token has a position for one, as early files have it.

    Raises:
        CheckpointError: It may as well be a grid that isn't a square.
    """
    if not is_square(count - 1):
        return False
    patch = shape_of(shapes, _KERNEL, 4, path=path)[:2]
    sizes = (given.fields.get("image_size"), given.like and given.like.image_size, given.target_size)
    for size in sizes:
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            patches = (height // patch[0]) * (width // patch[1])
            if patches in (count, count - 1):
                return patches == count - 1
    if any(count % side == 0 for side in range(2, math.isqrt(count) + 1)):
        side = math.isqrt(count - 1)
        size = say("image_size", value=f"{side * patch[0]}x{side * patch[1]}")
        raise CheckpointError(
            f"{path}: {count} positions and no class token: {side} x {side} patches and a class token's position that "
            f"isn't used ({size}), or a grid of {count} patches ({say('image_size', value='HEIGHTxWIDTH')})"
        )
    return True


def write(
    path: str | Path,
    config: VitConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes a `.npz` file with big_vision's current names, whole or not at all.

    big_vision, vit_jax and timm read it; timm has no pre-logits and ignores them. Preprocessing isn't kept.

    Args:
        path: The file; an older one is replaced if it was written here, and refused otherwise.
        config: The config of the model.
        tensors: The tensors by canonical name.
        name: Ignored, for the format has no place for it.
        source: Ignored, for the format has no place for it.

    Raises:
        CheckpointError: A config that Google's code doesn't have, such as another GELU; names the fields.
    """
    path = Path(path)
    TARGET.check(path)
    names = Names(stem_depths=config.stem_depths if config.stem == "bit" else None)
    theirs = Theirs(fill(list(_table(names)), config, source=str(path)), tensors)
    shapes = theirs.shapes()
    hold_against(config, lambda: _config(shapes, Names(), Given(config), path), path=path, format="Google")
    _write_npz(path, theirs)


def _names(shapes: Mapping[str, Shape], path: Path) -> Names:
    """The names of a file, whose prefix is gone."""
    names = set(shapes)
    if "Transformer/encoder_norm/scale" not in names:
        raise CheckpointError(f"{path}: got no Transformer/encoder_norm/scale, expected a Google ViT")
    stacked = any(name.startswith("Transformer/encoderblock/") for name in names)
    block = f"Transformer/encoderblock{'' if stacked else '_0'}/"
    layers = sorted({name.removeprefix(block).split("/")[0] for name in names if name.startswith(block)})

    def layer(kind: str) -> str:
        """The last of a kind: the second norm, and the only attention and MLP."""
        found = [name for name in layers if re.fullmatch(rf"{kind}_\d", name)]
        return found[-1] if found else f"{kind}_0"

    return Names(
        prefix="",
        stacked=stacked,
        attention=layer("MultiHeadDotProductAttention"),
        norm2=layer("LayerNorm"),
        mlp=layer("MlpBlock"),
        positions=next((name for name in _POSITIONS if name in names), _POSITIONS[0]),
        pool="" if "probe" in names else "MAPHead_0/",
        stem_depths=google_bit.depths_of(names, "") if google_bit.ROOT in names else None,
        group_norm="1 1 1 d -> d" if "gn_root/scale" in names and len(shapes["gn_root/scale"]) == 4 else "",
    )


def _config(
    shapes: Mapping[str, Shape], names: Names, given: Given, path: Path, *, two_towers: bool = False
) -> VitConfig:
    """The config that a file's names and shapes make."""
    prefix, block = names.prefix, names.block.format(i=0)
    skipped = 1 if names.stacked else 0

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    height, width, channels, dim = size(f"{prefix}{_KERNEL}", 4)
    stem = google_bit.stem_of(shapes, prefix, given, path=path)
    if stem:
        channels = size(f"{prefix}{google_bit.ROOT}", 4)[2]
        stride = stem.pop("stride")
        height, width = height * stride, width * stride
    query = size(f"{block}{names.attention}/query/kernel", 3 + skipped)
    has_cls, has_probe = f"{prefix}cls" in shapes, f"{prefix}{names.pool}probe" in shapes
    pool_mlp = size(f"{prefix}{names.pool}MlpBlock_0/Dense_0/kernel", 2)[1] if has_probe else None
    mlp_dim = size(f"{block}{names.mlp}/Dense_0/kernel", 2 + skipped)[-1]
    classes = size(f"{prefix}head/kernel", 2)[1] if f"{prefix}head/kernel" in shapes else 0
    blocks = rf"{re.escape(prefix)}Transformer/encoderblock_(\d+)/"
    usual, why = _preprocessing(channels, two_towers=two_towers), "that of big_vision's evaluations"
    fields: dict[str, Any] = dict(
        patch_size=(height, width),
        in_chans=channels,
        embed_dim=dim,
        depth=query[0] if names.stacked else depth_of(shapes, blocks),
        num_heads=heads_of(given, dim, path=path, shown=query[-2]),
        mlp_dim=mlp_dim,
        attn_pool_mlp_dim=None if pool_mlp == mlp_dim else pool_mlp,
        num_classes=given.settle("num_classes", shown=classes, path=path),
        pre_logits_dim=size(f"{prefix}pre_logits/kernel", 2)[1] if f"{prefix}pre_logits/kernel" in shapes else None,
        class_token=has_cls,
        global_pool=given.take("global_pool", "map" if has_probe else "token" if has_cls else "avg"),
        act=given.take("act", "gelu_tanh"),
        norm_eps=given.take("norm_eps", 1e-6),
        patch_resize="bilinear",
        **stem,
        preprocessing=images_of(given, channels, usual=usual, why=why),
    )
    if f"{prefix}{names.positions}" in shapes:
        count = size(f"{prefix}{names.positions}", 3)[1]
        fields |= grid_of(given, count, (height, width), _pos_embed_prefix(names, count, has_cls), path=path)
        fields["pos_embed_resize"] = _resize(names, given, fields["pos_embed_prefix"], has_cls)
    else:
        why = "positions are fixed, and nothing else shows it"
        fields["image_size"] = given.settle("image_size", usual=(224, 224), why=why, path=path)
        resize = given.take("pos_embed_resize", "zoom")
        fields |= dict(pos_embed="sincos2d_big_vision", pos_embed_prefix="none", pos_embed_resize=resize)
    return make(path, **fields)


def _pos_embed_prefix(names: Names, count: int, has_cls: bool) -> dict[str, int]:
    """Entries of prefix tokens: the encoder's own layer came after the class token, the model's parameter before it."""
    if not has_cls or names.positions != _POSITIONS[0]:
        return {"all": int(has_cls)}
    return {"none": 0, "all": 1} if is_square(count) else {"all": 1, "none": 0}


def _resize(names: Names, given: Given, prefix: str, has_cls: bool) -> str:
    """The kernel for another grid: FlexiViT, whose names are those of any newer file, has one of its own."""
    if "pos_embed_resize" not in given.fields and given.name.startswith("flexivit"):
        return "bilinear_antialias"
    may_be_flexivit = has_cls and prefix == "none" and not given.name
    why = "big_vision's, for another image size; FlexiViT has bilinear_antialias" if may_be_flexivit else ""
    return given.assume("pos_embed_resize", "zoom", why)


def _preprocessing(channels: int, *, two_towers: bool) -> Preprocessing:
    mean = HALF if channels == 3 else HALF[:1]
    if two_towers:
        return Preprocessing(mean=mean, std=mean, interpolation="bilinear", crop_pct=1.0, crop_mode="squash")
    return Preprocessing(mean=mean, std=mean, interpolation="bilinear", crop_pct=0.875)


def _table(names: Names) -> Iterator[Entry]:
    prefix, block = names.prefix, names.block
    yield Entry("cls_token", f"{prefix}cls")
    yield Entry("pos_embed", f"{prefix}{names.positions}")
    if names.stem_depths is not None:
        yield from google_bit.table(prefix, names.stem_depths, names.group_norm)
    yield Entry("patch_embed.proj.weight", f"{prefix}{_KERNEL}", "h w c d -> d c h w")
    yield Entry("patch_embed.proj.bias", f"{prefix}embedding/bias")
    for number, norm in enumerate(("LayerNorm_0", names.norm2), 1):
        yield from _norm(f"blocks.{{i}}.norm{number}", f"{block}{norm}", names.stacked)
    attention = f"{block}{names.attention}"
    yield from _heads("blocks.{i}.attn.qkv", attention, ("query", "key", "value"), names.stacked)
    yield from _out("blocks.{i}.attn.proj", attention, names.stacked)
    for number in (0, 1):
        mlp = f"{block}{names.mlp}/Dense_{number}"
        yield from _dense(f"blocks.{{i}}.mlp.fc{number + 1}", mlp, names.stacked)
    yield from _norm("norm", f"{prefix}Transformer/encoder_norm")
    pool = f"{prefix}{names.pool}"
    yield Entry("attn_pool.latent", f"{pool}probe")
    yield from _heads("attn_pool.q", f"{pool}MultiHeadDotProductAttention_0", ("query",))
    yield from _heads("attn_pool.kv", f"{pool}MultiHeadDotProductAttention_0", ("key", "value"))
    yield from _out("attn_pool.proj", f"{pool}MultiHeadDotProductAttention_0")
    yield from _norm("attn_pool.norm", f"{pool}LayerNorm_0")
    for number in (0, 1):
        yield from _dense(f"attn_pool.mlp.fc{number + 1}", f"{pool}MlpBlock_0/Dense_{number}")
    yield from _dense("pre_logits.fc", f"{prefix}pre_logits")
    yield from _dense("head", f"{prefix}head")


def _norm(ours: str, theirs: str, stacked: bool = False) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", f"{theirs}/scale", stacked=stacked)
    yield Entry(f"{ours}.bias", f"{theirs}/bias", stacked=stacked)


def _dense(ours: str, theirs: str, stacked: bool = False) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", f"{theirs}/kernel", "inputs outputs -> outputs inputs", stacked)
    yield Entry(f"{ours}.bias", f"{theirs}/bias", stacked=stacked)


def _heads(ours: str, theirs: str, parts: tuple[str, ...], stacked: bool = False) -> Iterator[Entry]:
    """A projection to heads, or several that are one there."""
    kernels = tuple(f"{theirs}/{part}/kernel" for part in parts)
    biases = tuple(f"{theirs}/{part}/bias" for part in parts)
    yield Entry(f"{ours}.weight", kernels, "d nh hd -> (nh hd) d", stacked)
    yield Entry(f"{ours}.bias", biases, "nh hd -> (nh hd)", stacked)


def _out(ours: str, theirs: str, stacked: bool = False) -> Iterator[Entry]:
    """A projection from heads."""
    yield Entry(f"{ours}.weight", f"{theirs}/out/kernel", "nh hd d -> d (nh hd)", stacked)
    yield Entry(f"{ours}.bias", f"{theirs}/out/bias", stacked=stacked)


def _write_npz(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes as `numpy.savez`, with one tensor in memory at a time."""
    with outputs.whole_file(path) as new, ZipFile(new, "w") as archive:
        archive.comment = _COMMENT
        for name in tensors:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                array = np.ascontiguousarray(tensors[name])
                # NumPy has no name for bfloat16; Google's files have two bytes of anything.
                array = array.view("V2") if array.dtype.name == "bfloat16" else array
                np.lib.format.write_array(member, array, allow_pickle=False)


def _is_ours(path: Path) -> bool:
    if not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return archive.comment == _COMMENT


# The families that have names here.
HOLDS: tuple[type[Config], ...] = (VitConfig,)
TARGET = File(suffix=SUFFIX, is_ours=_is_ours)
