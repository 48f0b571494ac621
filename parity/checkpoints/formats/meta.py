"""Meta's own files: DINOv2, DINOv3, MAE and DeiT (I and III), and Microsoft's BEiT, whose code grew from DeiT's.

All have nearly canonical names. Numerics are those of the original code: epsilon 1e-6 (DINOv3: 1e-5), erf GELU,
positions resized as each project does it. A file shows neither its heads, which follow from the width of the published
models, nor the preprocessing, which is that of each project's evaluation: bicubic, resized to 8/7 of the crop. DINOv2
is taken at the size of its positions, DINOv3 at 256, both uncropped. What is written here has what the tensors don't
show beside them in `meta.json`.

Source: facebookresearch `dinov2/models/vision_transformer.py`, `dinov3/models/vision_transformer.py` and
`dinov3/layers`, `mae/models_vit.py`, `deit/models.py` and `models_v2.py`; microsoft `unilm/beit/modeling_finetune.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, Preprocessing, Rope, replace
from ...configs.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD
from ...configs.registry import build, jsonable
from ...configs.rope import frequencies
from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.document import find_json
from ..containers.files import Directory, write_directory
from ..containers.overlay import Overlay
from ..containers.tensors import dtypes_of, open_tensors, shapes_of
from ..shapes import Shape, parameter_shapes
from .foreign import depth_of, grid_fields, heads_of, hold_against, known, make, read_document, shape_of, translated
from .translate import Entry, Pair, Theirs, Unused, pair_up

DOCUMENT = "meta.json"
TARGET = Directory(documents=(DOCUMENT,), is_ours=lambda path: find_json(path / DOCUMENT).get("format") == "meta")
KINDS = ("dinov3", "beit", "dinov2", "mae", "deit")
_KERNEL = "patch_embed.proj.weight"
_PERIODS = "rope_embed.periods"
# Relative rounding of bfloat16, in which DINOv3 keeps the periods of its rotations.
_BFLOAT16 = 2.0**-8
# Names that only the original files have, of which one tells them from timm's.
_MARKS = re.compile(
    r"(.*\.)?(register_tokens|storage_tokens|mask_token|rope_embed\.periods|decoder_embed\.weight)"
    r"|(.*\.)?blocks\.\d+\.(\d+\.)?(attn\.qkv\.bias_mask|attn\.relative_position_index|mlp\.w12\.weight)"
    r"|(.*\.)?blocks\.\d+\.\d+\.norm1\.weight"
)

UNUSED = (
    Unused(r"(.*\.)?mask_token", "stands for masked patches in pretraining"),
    Unused(r"decoder_.*", "decoder of pretraining"),
    Unused(r"lm_head\..*", "head of pretraining"),
    Unused(r"(dino_head|ibot_head)\..*", "head of pretraining"),
    Unused(r"(.*\.)?local_cls_norm\..*", "norm of local crops in training"),
    Unused(r"(.*\.)?relative_position_index", "follows from the grid"),
    Unused(r"(.*\.)?rope_embed\.periods", "follows from the config: checked to be it but for rounding"),
    Unused(r"(.*\.)?qkv\.bias_mask", "checked to leave out the bias of the key alone"),
)


@dataclass(frozen=True)
class Names:
    """How a file names what all of them have.

    Attributes:
        kind: The project, one of `KINDS`.
        prefix: Before every name, such as `backbone.`.
        gammas: LayerScale is `gamma_1`, not `ls1.gamma`.
        masked: The bias of query, key and value is one tensor, and a mask leaves out the key's.
        chunks: The chunk of each block, where blocks are in chunks (DINOv2's training files).
    """

    kind: str
    prefix: str = ""
    gammas: bool = False
    masked: bool = False
    chunks: Mapping[str, str] = field(default_factory=dict)

    def block(self, number: str) -> str:
        """Before the names of a block."""
        return f"{self.prefix}blocks.{self.chunks[number]}.{number}" if self.chunks else f"{self.prefix}blocks.{number}"


def is_meta(names: Mapping[str, Any]) -> bool:
    """Whether tensors have names that only these projects' own files have; many of DeiT's and MAE's are timm's too."""
    return any(name.endswith(_KERNEL) for name in names) and any(_MARKS.fullmatch(name) for name in names)


def read(path: str | Path, *, model: str | None = None) -> Checkpoint:
    """Opens an original file, or a directory that was written here; of the tensors, only a few small ones are read.

    Args:
        path: The file or directory.
        model: A registered name, from which the number of heads, the image size and the preprocessing are taken.

    Raises:
        CheckpointError: None of these models, or tensors that don't fit.
    """
    path = Path(path)
    tensors = open_tensors(path)
    shapes = shapes_of(tensors)
    document = read_document(path, DOCUMENT, "config")
    names = _names(shapes, path)
    config = _config(shapes, names, document, known(model), path)
    _check_periods(tensors, names, config, path)
    _check_masks(tensors, names, config, path)
    return translated(path, config, _table(config, names), tensors, unused=UNUSED, name=model, format="meta")


def write(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` with the names of the project that has such a model, and `meta.json`.

    The project's own model loads the tensors strictly; what stands for masked patches in pretraining is zero.

    Args:
        path: The directory; an older one is replaced.
        config: Of the model.
        tensors: By canonical name.
        name: Not kept.
        source: Not kept.

    Raises:
        CheckpointError: A config that none of the projects can express; names the fields.
    """
    path = Path(path)
    names = _names_of(config)
    if names.kind == "dinov2" and config.pos_embed_prefix == "none":
        # DINOv2 has a position for the class token; timm, which doesn't, has added it to the token.
        positions = np.asarray(tensors["pos_embed"])
        tensors = Overlay(tensors, {"pos_embed": np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)})
        config = replace(config, pos_embed_prefix="class")
    pairs = pair_up(_table(config, names), config, source=str(path))
    added: dict[str, np.ndarray] = {}
    if names.kind in ("dinov2", "dinov3"):
        added["mask_token"] = np.zeros((1, config.embed_dim), np.float32)
    if config.rope is not None:
        added[_PERIODS] = (2 * math.pi / frequencies(config.rope, config.head_dim)).astype(np.float32)
    if names.masked:
        dtype = dtypes_of(tensors)["blocks.0.attn.q_bias"]
        zeros = {f"blocks.{i}.attn.k_bias": np.zeros(config.embed_dim, dtype) for i in range(config.depth)}
        pairs = [*pairs, *(_key_bias(ours, config) for ours in zeros)]
        tensors = Overlay(tensors, dict(zeros))
        mask = np.repeat(np.asarray([1, 0, 1], dtype), config.embed_dim)
        added |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(config.depth)}
    theirs = Theirs(pairs, tensors, added=added)
    document = {
        "format": "meta",
        "kind": names.kind,
        "config": {"num_heads": config.num_heads, "image_size": list(config.image_size)},
        "preprocessing": jsonable(asdict(config.preprocessing)),
    }
    # Without a head, which token to take is left to the caller there.
    free = ("dynamic_image_size", *(() if config.num_classes else ("global_pool",)))
    hold_against(
        config,
        lambda: _config(theirs.shapes(), names, document, None, path),
        path=path,
        format="Meta",
        free=free,
    )
    write_directory(path, TARGET, theirs, {DOCUMENT: document})


def _names(shapes: Mapping[str, Shape], path: Path) -> Names:
    """The names of a file."""
    prefix = next((name.removesuffix(_KERNEL) for name in shapes if name.endswith(_KERNEL)), None)
    if prefix is None:
        raise CheckpointError(f"{path}: got no {_KERNEL}, expected a ViT of Meta's")
    inner = [name.removeprefix(prefix) for name in shapes if name.startswith(prefix)]

    def some(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in inner)

    if some(rf"storage_tokens|{_PERIODS}"):
        kind = "dinov3"
    elif some(r".*relative_position_bias_table|.*attn\.q_bias"):
        kind = "beit"
    elif some(r"register_tokens|.*\.ls1\.gamma"):
        kind = "dinov2"
    elif some(r"decoder_embed\..*|fc_norm\..*") or not some(r"head\..*"):
        kind = "mae"
    else:
        kind = "deit"
    chunks = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in inner)
    return Names(
        kind=kind,
        prefix=prefix,
        gammas=some(r".*\.gamma_1"),
        masked=some(r".*qkv\.bias_mask"),
        chunks={match.group(2): match.group(1) for match in chunks if match},
    )


def _names_of(config: Config) -> Names:
    """The names of the project that has such a model."""
    if config.rope is not None:
        return Names("dinov3", masked=config.qkv_fused and config.qkv_bias and not config.k_bias)
    if config.rel_pos_bias != "none" or not config.k_bias:
        return Names("beit", gammas=True)
    if config.layer_scale_init is not None:
        return Names("deit", gammas=True) if config.num_classes else Names("dinov2")
    return Names("mae" if config.fc_norm or not config.num_classes else "deit")


def _config(
    shapes: Mapping[str, Shape], names: Names, document: Mapping[str, Any], like: Config | None, path: Path
) -> Config:
    """The config that shapes make, with what they don't show from a document, a named model, or the published ones."""
    prefix, first = names.prefix, names.block("0")

    def has(name: str) -> bool:
        return f"{prefix}{name}" in shapes

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    dim, channels, *patch_size = size(f"{prefix}{_KERNEL}", 4)
    given = document.get("config", {})
    if "num_heads" in given:
        heads = given["num_heads"]
    elif has(_PERIODS):
        heads = dim // (4 * size(f"{prefix}{_PERIODS}", 1)[0])
    else:
        heads = heads_of(dim, like, path=path)
    blocks = r"blocks\.\d+\.(\d+)\." if names.chunks else r"blocks\.(\d+)\."
    classes = size(f"{prefix}head.weight", 2)[0] if has("head.weight") else 0
    tokens = "register_tokens" if names.kind == "dinov2" else "storage_tokens"
    fields: dict[str, Any] = dict(
        patch_size=tuple(patch_size),
        in_chans=channels,
        embed_dim=dim,
        depth=depth_of(shapes, re.escape(prefix) + blocks),
        num_heads=heads,
        num_classes=classes,
        class_token=has("cls_token"),
        dist_token=has("dist_token"),
        reg_tokens=size(f"{prefix}{tokens}", 3)[1] if has(tokens) else 0,
        qkv_bias=f"{first}.attn.qkv.bias" in shapes or f"{first}.attn.q_bias" in shapes,
        k_bias=f"{first}.attn.qkv.bias_mask" not in shapes and f"{first}.attn.q_bias" not in shapes,
        final_norm=has("norm.weight"),
        fc_norm=has("fc_norm.weight"),
        global_pool="avg" if has("fc_norm.weight") else "token",
        layer_scale_init=1e-5 if f"{first}.{'gamma_1' if names.gammas else 'ls1.gamma'}" in shapes else None,
        norm_eps=1e-6,
        pos_embed_resize="bicubic",
    )
    fields |= _mlp(shapes, first, path)
    fields |= _positions(shapes, names, fields, like, path)
    fields |= {"image_size": given["image_size"]} if "image_size" in given else {}
    return make(path, **fields, preprocessing=_preprocessing(names.kind, document, like, path))


def _mlp(shapes: Mapping[str, Shape], block: str, path: Path) -> dict[str, Any]:
    """The fields of the MLP, which the names of its layers show."""
    if f"{block}.mlp.w12.weight" in shapes:
        hidden = shape_of(shapes, f"{block}.mlp.w12.weight", 2, path=path)[0] // 2
        return dict(mlp="swiglu_packed", act="silu", mlp_dim=hidden)
    if f"{block}.mlp.w1.weight" in shapes:
        return dict(mlp="swiglu", act="silu", mlp_dim=shape_of(shapes, f"{block}.mlp.w1.weight", 2, path=path)[0])
    return dict(act="gelu", mlp_dim=shape_of(shapes, f"{block}.mlp.fc1.weight", 2, path=path)[0])


def _positions(
    shapes: Mapping[str, Shape], names: Names, fields: Mapping[str, Any], like: Config | None, path: Path
) -> dict[str, Any]:
    """The fields of positions, of which each project has its own, and the image size that follows from them."""
    patch_size, prefix = fields["patch_size"], names.prefix
    if names.kind == "dinov3":
        rope = Rope(kind="centered", temperature=100.0, rotate_half=True)
        side = tuple(16 * size for size in patch_size) if like is None else like.image_size
        return dict(image_size=side, pos_embed="none", rope=rope, norm_eps=1e-5, dynamic_image_size=True)
    found: dict[str, Any] = dict(pos_embed="none")
    if names.kind == "beit":
        shared = "rel_pos_bias.relative_position_bias_table"
        in_block = f"{names.block('0')}.attn.relative_position_bias_table"
        table = in_block if in_block in shapes else f"{prefix}{shared}"
        if table in shapes:
            side = (math.isqrt(max(shape_of(shapes, table, 2, path=path)[0] - 3, 0)) + 1) // 2
            found |= dict(rel_pos_bias="block" if table == in_block else "shared")
            found |= grid_fields(side * side, patch_size, like, path=path)
    if f"{prefix}pos_embed" in shapes:
        count = shape_of(shapes, f"{prefix}pos_embed", 3, path=path)[1]
        tokens = fields["class_token"] + fields["dist_token"]
        where = "class" if fields["reg_tokens"] else "all"
        if math.isqrt(count) ** 2 == count and fields["class_token"]:  # DeiT III adds them before the class token
            tokens, where = 0, "none"
        found |= dict(pos_embed="learned", pos_embed_prefix=where)
        found |= grid_fields(count - tokens, patch_size, like, path=path)
    if names.kind == "dinov2":
        found |= dict(pos_embed_resize="bicubic_antialias" if fields["reg_tokens"] else "bicubic_offset")
    return found


def _preprocessing(kind: str, document: Mapping[str, Any], like: Config | None, path: Path) -> Preprocessing:
    if "preprocessing" in document:
        try:
            return build(Preprocessing, document["preprocessing"], "preprocessing")
        except ValueError as error:
            raise CheckpointError(f"{path / DOCUMENT}: {error}") from None
    if like is not None:
        return like.preprocessing
    mean, std = (HALF, HALF) if kind == "beit" else (IMAGENET_MEAN, IMAGENET_STD)
    whole = kind in ("dinov2", "dinov3")
    return Preprocessing(mean=mean, std=std, interpolation="bicubic", crop_pct=1.0 if whole else 0.875)


def _table(config: Config, names: Names) -> list[Entry]:
    """Where a file keeps each tensor of a config."""
    return [_entry(name, config, names) for name in parameter_shapes(config)]


def _entry(ours: str, config: Config, names: Names) -> Entry:
    if not (match := re.fullmatch(r"blocks\.(\d+)\.(.*)", ours)):
        tokens = {"dinov2": "register_tokens", "dinov3": "storage_tokens"}
        return Entry(ours, names.prefix + (tokens.get(names.kind, ours) if ours == "reg_token" else ours))
    number, inner = match.groups()
    if names.masked and (bias := re.fullmatch(r"attn\.([qv])_bias", inner)):
        place = "qkv".index(bias.group(1))
        return Entry(ours, f"{names.block(number)}.attn.qkv.bias", part=(place, place + 1, 3))
    for theirs, canonical in _renamed(config, names):
        if inner.startswith(canonical):
            inner = theirs + inner.removeprefix(canonical)
            break
    return Entry(ours, f"{names.block(number)}.{inner}")


def _renamed(config: Config, names: Names) -> Iterator[tuple[str, str]]:
    """Starts of names within a block: theirs, ours."""
    if names.gammas:
        yield from (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
    if config.mlp == "swiglu_packed":
        yield from (("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
    if config.mlp == "swiglu":
        yield from (("mlp.w1.", "mlp.fc1_g."), ("mlp.w2.", "mlp.fc1_x."), ("mlp.w3.", "mlp.fc2."))


def _key_bias(ours: str, config: Config) -> Pair:
    """Where the bias of the key is that a mask leaves out: a third of the bias of all."""
    theirs = ours.replace("k_bias", "qkv.bias")
    return Pair(ours, (config.embed_dim,), (theirs,), "", (), None, (1, 2, 3))


def _check_periods(tensors: Mapping[str, np.ndarray], names: Names, config: Config, path: Path) -> None:
    name = f"{names.prefix}{_PERIODS}"
    if name not in tensors or config.rope is None:
        return
    found = np.asarray(tensors[name], np.float64)
    expected = 2 * math.pi / frequencies(config.rope, config.head_dim)
    if found.shape != expected.shape or not np.all(np.abs(found / expected - 1) <= _BFLOAT16):
        raise CheckpointError(f"{path}: {name}: got other periods than those of temperature {config.rope.temperature}")


def _check_masks(tensors: Mapping[str, np.ndarray], names: Names, config: Config, path: Path) -> None:
    expected = np.repeat([1, 0, 1], config.embed_dim)
    for name in tensors:
        if name.endswith("qkv.bias_mask") and not np.array_equal(np.asarray(tensors[name], np.float64), expected):
            raise CheckpointError(f"{path}: {name}: expected ones for query and value and zeros for the key")
