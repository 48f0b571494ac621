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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, Preprocessing, Rope, replace
from ...configs.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD
from ...configs.registry import build, jsonable
from ...configs.rope import frequencies
from ..accounting import CheckpointError
from ..assumed import Given
from ..checkpoint import Checkpoint
from ..containers.document import find_json
from ..containers.files import Directory, write_directory
from ..containers.overlay import Overlay
from ..containers.tensors import dtypes_of
from ..shapes import Shape, parameter_shapes
from .canonical import Known, infer
from .foreign import hold_against, read_document, shape_of, translated
from .opened import Opened
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
    r"|(.*\.)?blocks\.\d+\.(\d+\.norm1|norm11)\.weight"
)
# Parameters that canonical names have and none of these projects.
_STRANGE = re.compile(
    r"attn_pool|norm_pre|patch_embed\.norm|[qk]_norm|lambda_|pre_logits|[qkv]_proj|attn\.norm|mlp\.norm|in_proj"
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
        gammas: LayerScale is `gamma_1`, not `ls1.gamma`.
        masked: The bias of query, key and value is one tensor, and a mask leaves out the key's.
        parallel: Blocks have two attentions and two MLPs (`norm11`, `attn1`).
        chunks: The chunk of each block, where blocks are in chunks (DINOv2's training files).
    """

    kind: str
    gammas: bool = False
    masked: bool = False
    parallel: bool = False
    chunks: Mapping[str, str] = field(default_factory=dict)

    def block(self, number: str) -> str:
        """Before the names of a block."""
        return f"blocks.{self.chunks[number]}.{number}" if self.chunks else f"blocks.{number}"


def is_meta(names: Iterable[str]) -> bool:
    """Whether tensors have names that only these projects' own files have; many of DeiT's and MAE's are timm's too."""
    return any(_MARKS.fullmatch(name) for name in names)


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens an original file, or a directory that was written here; of the tensors, only a few small ones are read.

    Args:
        opened: The file or directory.
        given: What the user says.

    Raises:
        CheckpointError: None of these models, or tensors that don't fit.
    """
    path, weights = opened.path, opened.weights("meta")
    document = read_document(path, DOCUMENT, "config")
    names = _names(weights.shapes)
    config = _config(weights.shapes, names, document, given, path)
    _check_periods(weights.tensors, config, path)
    _check_masks(weights.tensors, config, path)
    table = _table(config, names)
    return translated(weights, given, config, table, path=path, unused=UNUSED, format="meta")


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
    if strange := [name for name in parameter_shapes(config) if _STRANGE.search(name)]:
        raise CheckpointError(f"{path}: the Meta format can't express this config: it has no {strange[0]}")
    names = _names_of(config)
    if names.kind == "dinov2" and config.pos_embed_prefix == "none":
        config, tensors = _with_position_of_class(config, tensors)
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
        lambda: _config(theirs.shapes(), names, document, Given(), path),
        path=path,
        format="Meta",
        free=free,
    )
    write_directory(path, TARGET, theirs, {DOCUMENT: document})


def _with_position_of_class(
    config: Config, tensors: Mapping[str, np.ndarray]
) -> tuple[Config, Mapping[str, np.ndarray]]:
    """The same model as DINOv2 has it, with a position for the class token; timm has added it to the token."""
    positions = np.asarray(tensors["pos_embed"])
    positions = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
    return replace(config, pos_embed_prefix="class"), Overlay(tensors, {"pos_embed": positions})


def _names(shapes: Mapping[str, Shape]) -> Names:
    """The names of a file."""

    def some(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in shapes)

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
    chunks = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in shapes)
    return Names(
        kind=kind,
        gammas=some(r".*\.gamma_1"),
        masked=some(r".*qkv\.bias_mask"),
        parallel=some(r".*\.norm11\.weight"),
        chunks={match.group(2): match.group(1) for match in chunks if match},
    )


def _names_of(config: Config) -> Names:
    """The names of the project that has such a model."""
    if config.rope is not None:
        return Names("dinov3", masked=config.qkv_fused and config.qkv_bias and not config.k_bias)
    if config.rel_pos_bias != "none" or not config.k_bias:
        return Names("beit", gammas=True)
    if config.block == "parallel_things":
        return Names("deit", gammas=config.layer_scale_init is not None, parallel=True)
    if config.layer_scale_init is not None:
        return Names("deit", gammas=True) if config.num_classes else Names("dinov2")
    return Names("mae" if config.fc_norm or not config.num_classes else "deit")


def _config(shapes: Mapping[str, Shape], names: Names, document: Mapping[str, Any], given: Given, path: Path) -> Config:
    """The config that shapes make, with what they don't show from a document, the project's code, or the user."""
    fields: dict[str, Any] = dict(act="gelu", norm_eps=1e-6, pos_embed_resize="bicubic", rel_pos_resize="geometric")
    if any(".mlp.w3." in name for name in shapes):
        fields["act"] = "silu"
    prefix: tuple[str, ...] = ("all",) if names.kind == "dinov2" else ()
    if names.kind == "dinov2":
        with_registers = "register_tokens" in shapes
        prefix = ("class",) if with_registers else ("all",)
        fields["pos_embed_resize"] = "bicubic_antialias" if with_registers else "bicubic_offset"
    elif names.kind == "dinov3":
        fields |= _dinov3(shapes, path)
    elif names.gammas:  # DeiT III adds positions before the class token
        prefix = ("none", "all")
    if names.kind in ("dinov2", "dinov3"):
        fields["global_pool"] = "token"
    for name in ("num_heads", "image_size"):
        if name in (config := document.get("config", {})):
            fields[name] = tuple(config[name]) if name == "image_size" else config[name]
    images = _images(document, path)
    fields |= {} if images is None else {"preprocessing": images}
    known = Known(fields=fields, prefix=prefix, usual_images=(USUAL[names.kind], f"that of {names.kind}'s evaluation"))
    return infer(_canonical(shapes, names), given, path=path, known=known)


def _dinov3(shapes: Mapping[str, Shape], path: Path) -> dict[str, Any]:
    """What DINOv3's names say: rotary positions, for images of any size."""
    rope = Rope(kind="centered", temperature=100.0, rotate_half=True)
    found: dict[str, Any] = dict(rope=rope, pos_embed="none", norm_eps=1e-5, dynamic_image_size=True)
    if _PERIODS in shapes:
        dim = shape_of(shapes, _KERNEL, 4, path=path)[0]
        found["num_heads"] = dim // (4 * shape_of(shapes, _PERIODS, 1, path=path)[0])
    return found


def _images(document: Mapping[str, Any], path: Path) -> Preprocessing | None:
    if "preprocessing" not in document:
        return None
    try:
        return build(Preprocessing, document["preprocessing"], "preprocessing")
    except ValueError as error:
        raise CheckpointError(f"{path / DOCUMENT}: {error}") from None


# Of each project's evaluation.
_IMAGENET = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=0.875)
_WHOLE = replace(_IMAGENET, crop_pct=1.0)
USUAL = {
    "dinov3": _WHOLE,
    "dinov2": _WHOLE,
    "beit": replace(_IMAGENET, mean=HALF, std=HALF),
    "mae": _IMAGENET,
    "deit": _IMAGENET,
}


def _canonical(shapes: Mapping[str, Shape], names: Names) -> dict[str, Shape]:
    """Shapes by canonical name, without those that no model has."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if any(re.fullmatch(rule.theirs, name) for rule in UNUSED):
            continue
        if names.chunks:
            name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        if names.masked and name.endswith(".attn.qkv.bias"):
            third = (shape[0] // 3,) if shape else ()
            found |= {name.replace("qkv.bias", f"{part}_bias"): third for part in "qv"}
            continue
        if name in TOKENS.values():
            name = "reg_token"
        if match := re.fullmatch(r"(blocks\.\d+)\.(.*)", name):
            block, inner = match.groups()
            for theirs, ours in _renamed(names, gated="w12" if any(".mlp.w12." in key for key in shapes) else "w1"):
                if inner.startswith(theirs):
                    inner = ours + inner.removeprefix(theirs)
                    break
            name = f"{block}.{inner}"
        found[name] = shape
    return found


def _table(config: Config, names: Names) -> list[Entry]:
    """Where a file keeps each tensor of a config."""
    return [_entry(name, config, names) for name in parameter_shapes(config)]


# Register tokens are called otherwise by both.
TOKENS = {"dinov2": "register_tokens", "dinov3": "storage_tokens"}


def _entry(ours: str, config: Config, names: Names) -> Entry:
    if not (match := re.fullmatch(r"blocks\.(\d+)\.(.*)", ours)):
        return Entry(ours, TOKENS.get(names.kind, ours) if ours == "reg_token" else ours)
    number, inner = match.groups()
    if names.masked and (bias := re.fullmatch(r"attn\.([qv])_bias", inner)):
        place = "qkv".index(bias.group(1))
        return Entry(ours, f"{names.block(number)}.attn.qkv.bias", part=(place, place + 1, 3))
    gated = {"swiglu_packed": "w12", "swiglu": "w1"}.get(config.mlp, "")
    for theirs, canonical in _renamed(names, gated=gated):
        if inner.startswith(canonical):
            inner = theirs + inner.removeprefix(canonical)
            break
    return Entry(ours, f"{names.block(number)}.{inner}")


def _renamed(names: Names, *, gated: str) -> Iterator[tuple[str, str]]:
    """Starts of names within a block: theirs, ours; the longer of two with one beginning first."""
    if names.parallel:
        for number, one in ((1, "1"), (0, "")):
            yield from (
                (f"norm1{one}.", f"attns.{number}.norm."),
                (f"attn{one}.", f"attns.{number}.attn."),
                (f"norm2{one}.", f"ffns.{number}.norm."),
                (f"mlp{one}.", f"ffns.{number}.mlp."),
                (f"gamma_1{'_1' if one else ''}", f"attns.{number}.ls.gamma"),
                (f"gamma_2{'_1' if one else ''}", f"ffns.{number}.ls.gamma"),
            )
        return
    if names.gammas:
        yield from (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
    if gated == "w12":
        yield from (("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
    if gated == "w1":
        yield from (("mlp.w1.", "mlp.fc1_g."), ("mlp.w2.", "mlp.fc1_x."), ("mlp.w3.", "mlp.fc2."))


def _key_bias(ours: str, config: Config) -> Pair:
    """Where the bias of the key is that a mask leaves out: a third of the bias of all."""
    theirs = ours.replace("k_bias", "qkv.bias")
    return Pair(ours, (config.embed_dim,), (theirs,), "", (), None, (1, 2, 3))


def _check_periods(tensors: Mapping[str, np.ndarray], config: Config, path: Path) -> None:
    name = _PERIODS
    if name not in tensors or config.rope is None:
        return
    found = np.asarray(tensors[name], np.float64)
    expected = 2 * math.pi / frequencies(config.rope, config.head_dim)
    if found.shape != expected.shape or not np.all(np.abs(found / expected - 1) <= _BFLOAT16):
        raise CheckpointError(f"{path}: {name}: got other periods than those of temperature {config.rope.temperature}")


def _check_masks(tensors: Mapping[str, np.ndarray], config: Config, path: Path) -> None:
    expected = np.repeat([1, 0, 1], config.embed_dim)
    for name in tensors:
        if name.endswith("qkv.bias_mask") and not np.array_equal(np.asarray(tensors[name], np.float64), expected):
            raise CheckpointError(f"{path}: {name}: expected ones for query and value and zeros for the key")
