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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np

from ... import outputs
from ...configs import Config, Preprocessing
from ...configs.preprocessing import HALF
from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.files import File
from ..containers.overlay import Overlay
from ..containers.tensors import open_tensors, shapes_of
from ..shapes import Shape
from .foreign import depth_of, grid_fields, hold_against, known, make, shape_of, translated
from .translate import Entry, Theirs, Unused, pair_up

SUFFIX = ".npz"
# Of the archive: that the file isn't its owner's original. NumPy doesn't look at it.
_COMMENT = b"written by vit-parity"
_KERNEL = "embedding/kernel"
_POSITIONS = ("pos_embedding", "Transformer/pos_embedding", "Transformer/posembed_input/pos_embedding")

UNUSED = (
    Unused(r"(.*/)?opt/state/.*", "state of the optimiser"),
    Unused(r"(params/)?(txt/.*|t|b)", "text tower, temperature and bias of a two-tower model"),
)


@dataclass(frozen=True)
class Names:
    """How a file names what all of them have.

    Attributes:
        prefix: Before every name.
        stacked: Whether the blocks are one tensor each.
        attention: Of a block.
        norm2: The second norm of a block.
        mlp: Of a block.
        positions: The position embedding.
        pool: Before the names of attention pooling.
    """

    prefix: str = "params/"
    stacked: bool = False
    attention: str = "MultiHeadDotProductAttention_0"
    norm2: str = "LayerNorm_1"
    mlp: str = "MlpBlock_0"
    positions: str = "pos_embedding"
    pool: str = "MAPHead_0/"

    @property
    def block(self) -> str:
        """Before the names of block `{i}`."""
        return f"{self.prefix}Transformer/encoderblock{'' if self.stacked else '_{i}'}/"


def is_google(names: Mapping[str, Any]) -> bool:
    """Whether tensors have the names of a Google ViT, a hybrid one included."""
    return any(f"{prefix}Transformer/encoder_norm/scale" in names for prefix in _prefixes(names))


def read(path: str | Path, *, model: str | None = None) -> Checkpoint:
    """Opens a `.npz` file; no tensor is read but a position table that has an entry too many.

    Args:
        path: The file.
        model: A registered name, for positions that aren't those of a square and for files without any.

    Raises:
        CheckpointError: Not a flat ViT of Google's, or tensors that don't fit.
    """
    path = Path(path)
    tensors: Mapping[str, np.ndarray] = open_tensors(path)
    ignored = dict(getattr(tensors, "ignored", {}))
    shapes = shapes_of(tensors)
    names = _names(shapes, path)
    positions = f"{names.prefix}{names.positions}"
    if f"{names.prefix}cls" not in shapes and positions in shapes:
        count = shape_of(shapes, positions, 3, path=path)[1]
        if math.isqrt(count) ** 2 == count - 1:
            tensors = Overlay(tensors, {positions: tensors[positions][:, 1:]})
            ignored[f"{positions}[:, 0]"] = "position of a class token that the model doesn't have"
    config = _config(shapes_of(tensors), names, known(model), path)
    table = list(_table(names))
    return translated(path, config, table, tensors, unused=UNUSED, ignored=ignored, name=model, format="google")


def write(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes a `.npz` file with big_vision's current names, whole or not at all.

    big_vision, vit_jax and timm read it; timm has no pre-logits and ignores them. Preprocessing isn't kept.

    Args:
        path: The file; an older one is replaced if it was written here, and refused otherwise.
        config: Of the model.
        tensors: By canonical name.
        name: Not kept.
        source: Not kept.

    Raises:
        CheckpointError: A config that Google's code doesn't have, such as another GELU; names the fields.
    """
    path = Path(path)
    TARGET.check(path)
    theirs = Theirs(pair_up(list(_table(Names())), config, source=str(path)), tensors)
    shapes = theirs.shapes()
    hold_against(config, lambda: _config(shapes, Names(), config, path), path=path, format="Google")
    _write_npz(path, theirs)


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix(_KERNEL) for name in names if name == _KERNEL or name.endswith(f"/{_KERNEL}")]


def _names(shapes: Mapping[str, Shape], path: Path) -> Names:
    """The names of a file."""
    prefixes = [prefix for prefix in _prefixes(shapes) if f"{prefix}Transformer/encoder_norm/scale" in shapes]
    if not prefixes:
        raise CheckpointError(f"{path}: got no {_KERNEL} beside Transformer/encoder_norm/scale, expected a Google ViT")
    prefix = prefixes[0]
    if f"{prefix}conv_root/kernel" in shapes:
        raise CheckpointError(f"{path}: {prefix}conv_root/kernel: a hybrid ResNet stem, not a flat ViT")
    stacked = any(name.startswith(f"{prefix}Transformer/encoderblock/") for name in shapes)
    block = f"{prefix}Transformer/encoderblock{'' if stacked else '_0'}/"
    layers = sorted({name.removeprefix(block).split("/")[0] for name in shapes if name.startswith(block)})

    def layer(kind: str) -> str:
        """The last of a kind: the second norm, and the only attention and MLP."""
        found = [name for name in layers if re.fullmatch(rf"{kind}_\d", name)]
        return found[-1] if found else f"{kind}_0"

    positions = next((name for name in _POSITIONS if f"{prefix}{name}" in shapes), _POSITIONS[0])
    return Names(
        prefix=prefix,
        stacked=stacked,
        attention=layer("MultiHeadDotProductAttention"),
        norm2=layer("LayerNorm"),
        mlp=layer("MlpBlock"),
        positions=positions,
        pool="" if f"{prefix}probe" in shapes else "MAPHead_0/",
    )


def _config(shapes: Mapping[str, Shape], names: Names, like: Config | None, path: Path) -> Config:
    """The config that a file's names and shapes make."""
    prefix, block = names.prefix, names.block.format(i=0)
    skipped = 1 if names.stacked else 0

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    height, width, channels, dim = size(f"{prefix}{_KERNEL}", 4)
    query = size(f"{block}{names.attention}/query/kernel", 3 + skipped)
    has_cls, has_probe = f"{prefix}cls" in shapes, f"{prefix}{names.pool}probe" in shapes
    pool_mlp = size(f"{prefix}{names.pool}MlpBlock_0/Dense_0/kernel", 2)[1] if has_probe else None
    mlp_dim = size(f"{block}{names.mlp}/Dense_0/kernel", 2 + skipped)[-1]
    fields: dict[str, Any] = dict(
        patch_size=(height, width),
        in_chans=channels,
        embed_dim=dim,
        depth=query[0] if names.stacked else depth_of(shapes, rf"{re.escape(prefix)}Transformer/encoderblock_(\d+)/"),
        num_heads=query[-2],
        mlp_dim=mlp_dim,
        attn_pool_mlp_dim=None if pool_mlp == mlp_dim else pool_mlp,
        num_classes=size(f"{prefix}head/kernel", 2)[1] if f"{prefix}head/kernel" in shapes else 0,
        pre_logits_dim=size(f"{prefix}pre_logits/kernel", 2)[1] if f"{prefix}pre_logits/kernel" in shapes else None,
        class_token=has_cls,
        global_pool="map" if has_probe else "token" if has_cls else "avg",
        act="gelu_tanh",
        norm_eps=1e-6,
        pos_embed_resize="zoom",
        patch_resize="bilinear",
        preprocessing=_preprocessing(prefix, channels),
    )
    if f"{prefix}{names.positions}" not in shapes:
        fields |= dict(pos_embed="sincos2d_big_vision", pos_embed_prefix="none")
        fields |= {} if like is None else dict(image_size=like.image_size)
    else:
        count = size(f"{prefix}{names.positions}", 3)[1]
        # Positions of the patches alone are added before the class token is put in front.
        before = has_cls and (math.isqrt(count) ** 2 == count or (like is not None and like.num_patches == count))
        fields |= dict(pos_embed_prefix="none" if before else "all")
        fields |= grid_fields(count - (has_cls and not before), (height, width), like, path=path)
    return make(path, **fields)


def _preprocessing(prefix: str, channels: int) -> Preprocessing:
    mean = HALF if channels == 3 else HALF[:1]
    if prefix.endswith("img/"):
        return Preprocessing(mean=mean, std=mean, interpolation="bilinear", crop_pct=1.0, crop_mode="squash")
    return Preprocessing(mean=mean, std=mean, interpolation="bilinear", crop_pct=0.875)


def _table(names: Names) -> Iterator[Entry]:
    prefix, block = names.prefix, names.block
    yield Entry("cls_token", f"{prefix}cls")
    yield Entry("pos_embed", f"{prefix}{names.positions}")
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


TARGET = File(suffix=SUFFIX, is_ours=_is_ours)
