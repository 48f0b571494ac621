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

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, Preprocessing, VitConfig, replace
from ...configs.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD
from ...configs.registry import build, jsonable
from ..accounting import CheckpointError
from ..assumed import Given
from ..checkpoint import Checkpoint
from ..containers.document import find_json
from ..containers.files import Directory, write_directory
from ..containers.overlay import Overlay
from ..containers.tensors import dtypes_of, shapes_of
from .canonical import Known, infer
from .foreign import checkpoint_of, hold_against, read_document, shape_of
from .meta_names import PERIODS, Names, canonical, names_of_config, names_of_file, table
from .meta_periods import FIELDS, check_periods, periods_of, rope_of
from .opened import Opened
from .stems import KERNEL
from .translate import FilledEntry, Theirs, fill

DOCUMENT = "meta.json"
_POOLING = ("global_pool", "pool_include_prefix")
# The families that have names here.
HOLDS: tuple[type[Config], ...] = (VitConfig,)
TARGET = Directory(documents=(DOCUMENT,), is_ours=lambda path: find_json(path / DOCUMENT).get("format") == "meta")


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
    names = names_of_file(weights.shapes)
    config = _config(weights.tensors, names, document, given, path)
    check_periods(weights.tensors, config.rope, config.head_dim, path=path)
    _check_masks(weights.tensors, config, path)
    entries = table(config, names)
    filled = fill(entries, config, source=str(path))
    return checkpoint_of(weights, given, config, filled, path=path, unused=names.unused, format="meta")


def write(
    path: str | Path,
    config: VitConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` with the names of the project that has such a model, and `meta.json`.

    The project's own model loads the tensors strictly; what stands for masked patches in pretraining is zero where the
    model has no such token.

    Args:
        path: The directory; an older one is replaced.
        config: The config of the model.
        tensors: The tensors by canonical name.
        name: Ignored, for the format has no place for it.
        source: Ignored, for the format has no place for it.

    Raises:
        CheckpointError: A config that none of the projects can express; names the fields.
    """
    path = Path(path)
    try:
        names = names_of_config(config)
    except ValueError as error:
        raise CheckpointError(f"{path}: the Meta format can't express this config: {error}") from None
    if names.kind == "dinov2" and config.pos_embed_prefix == "none":
        config, tensors = _with_position_of_class(config, tensors)
    filled = fill(table(config, names), config, source=str(path))
    added: dict[str, np.ndarray] = {}
    if names.kind in ("dinov2", "dinov3") and not config.mask_token:
        added["mask_token"] = np.zeros((1, config.embed_dim), np.float32)
    if config.rope is not None:
        added[PERIODS] = periods_of(config.rope, config.head_dim).astype(np.float32)
    if names.masked:
        dtype = dtypes_of(tensors)["blocks.0.attn.q_bias"]
        zeros = {f"blocks.{i}.attn.k_bias": np.zeros(config.embed_dim, dtype) for i in range(config.depth)}
        filled = [*filled, *(_key_bias(ours, config) for ours in zeros)]
        tensors = Overlay(tensors, dict(zeros))
        mask = np.repeat(np.asarray([1, 0, 1], dtype), config.embed_dim)
        added |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(config.depth)}
    theirs = Theirs(filled, tensors, added=added)
    document: dict[str, Any] = {
        "format": "meta",
        "kind": names.kind,
        "config": _said(config),
        "preprocessing": jsonable(asdict(config.preprocessing)),
    }
    # Without a head, which token to take is left to the caller there.
    free = ("dynamic_image_size", *(() if config.num_classes else ("global_pool",)))
    understood = partial(_config, theirs, names, document, Given(), path)
    hold_against(config, understood, path=path, format="Meta", free=free)
    # No tensor shows how tokens are pooled: what is written needn't be assumed.
    document["config"] |= {name: getattr(config, name) for name in _POOLING}
    write_directory(path, TARGET, theirs, {DOCUMENT: document})


def _with_position_of_class(
    config: VitConfig, tensors: Mapping[str, np.ndarray]
) -> tuple[VitConfig, Mapping[str, np.ndarray]]:
    """The same model as DINOv2 has it, with a position for the class token; timm has added it to the token."""
    positions = np.asarray(tensors["pos_embed"])
    positions = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
    return replace(config, pos_embed_prefix="class"), Overlay(tensors, {"pos_embed": positions})


def _said(config: VitConfig) -> dict[str, Any]:
    """What the document keeps of a config, since no tensor shows it."""
    said: dict[str, Any] = {"num_heads": config.num_heads, "image_size": list(config.image_size)}
    if config.mask_token:
        said["mask_token"] = True
    if config.rope is not None:
        said["rope"] = {name: value for name in FIELDS if (value := getattr(config.rope, name)) is not None}
    return said


def _config(
    tensors: Mapping[str, np.ndarray], names: Names, document: Mapping[str, Any], given: Given, path: Path
) -> VitConfig:
    """The config that shapes make, with what they don't show from a document, the project's code, or the user."""
    shapes, said = shapes_of(tensors), document.get("config", {})
    fields: dict[str, Any] = dict(act="gelu", norm_eps=1e-6, pos_embed_resize="bicubic", rel_pos_resize="geometric")
    fields |= dict(block="pre_norm", stem_norm_eps=1e-5)
    if any(".mlp.w3." in name for name in shapes):
        fields["act"] = "silu"
    prefix: tuple[str, ...] = ("all",) if names.kind == "dinov2" else ()
    if names.kind == "dinov2":
        with_registers = "register_tokens" in shapes
        prefix = ("class",) if with_registers else ("all",)
        fields["pos_embed_resize"] = "bicubic_antialias" if with_registers else "bicubic_offset"
    elif names.kind == "dinov3":
        fields |= _dinov3(tensors, said, given, path)
    elif names.gammas or names.parallel or names.stem:  # DeiT III adds positions before the class token
        prefix = ("none", "all")
    if names.kind in ("dinov2", "dinov3"):
        fields["global_pool"] = "token"
    if names.kind == "mae" and given.take("mask_token"):
        what = "has none: MAE's encoder is given no masked patches, and a mask token beside it is its decoder's"
        raise CheckpointError(f"{path}: mask_token: got True, but the file {what}")
    for name in ("num_heads", "image_size", "mask_token", *_POOLING):
        if name in said:
            fields[name] = tuple(said[name]) if name == "image_size" else said[name]
    images = _images(document, path)
    fields |= {} if images is None else {"preprocessing": images}
    known = Known(fields=fields, prefix=prefix, usual_images=(USUAL[names.kind], f"that of {names.kind}'s evaluation"))
    return infer(canonical(shapes, names), given, path=path, known=known)


def _dinov3(tensors: Mapping[str, np.ndarray], said: Mapping[str, Any], given: Given, path: Path) -> dict[str, Any]:
    """What DINOv3's names say: rotary positions, for images of any size."""
    shapes = shapes_of(tensors)
    found: dict[str, Any] = dict(pos_embed="none", norm_eps=1e-5, dynamic_image_size=True)
    if PERIODS in shapes:
        dim = shape_of(shapes, KERNEL, 4, path=path)[0]
        found["num_heads"] = dim // (4 * shape_of(shapes, PERIODS, 1, path=path)[0])
    try:
        return found | {"rope": rope_of(tensors, said.get("rope"), given, path=path)}
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


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


def _key_bias(ours: str, config: VitConfig) -> FilledEntry:
    """Where the bias of the key is that a mask leaves out: a third of the bias of all."""
    theirs = ours.replace("k_bias", "qkv.bias")
    return FilledEntry(ours, (config.embed_dim,), (theirs,), "", (), None, (1, 2, 3))


def _check_masks(tensors: Mapping[str, np.ndarray], config: VitConfig, path: Path) -> None:
    expected = np.repeat([1, 0, 1], config.embed_dim)
    for name in tensors:
        if name.endswith("qkv.bias_mask") and not np.array_equal(np.asarray(tensors[name], np.float64), expected):
            raise CheckpointError(f"{path}: {name}: expected ones for query and value and zeros for the key")
