"""torchvision's ViTs: state dicts of `vit_b_16` and its siblings, with the old and the new names of the MLP.

Its Swin Transformers are in `torchvision_swin` beside this module.

torchvision publishes files of tensors alone. Heads follow from the width of its models; the preprocessing is that of
the published weights of this size: resized to 256 and cropped to 224, bilinear, or bicubic and uncropped at larger
sizes and for patches of 14 (SWAG). What is written here has the constructor's arguments and the preprocessing beside
the tensors, in `torchvision.json`, so that nothing has to be guessed when it is read again. A convolutional stem's
strides are in no tensor, and no published file has such a stem: see `stems` beside this module.

Source: torchvision `models/vision_transformer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, Preprocessing, VitConfig
from ...configs.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...configs.registry import build, jsonable
from ...configs.swin import SwinConfig
from ..accounting import CheckpointError
from ..assumed import Given
from ..checkpoint import Checkpoint
from ..containers.document import find_json
from ..containers.files import Directory, write_directory
from ..shapes import Shape
from . import torchvision_swin
from .foreign import checkpoint_of, depth_of, hold_against, make, read_document, shape_of
from .opened import Opened
from .settled import grid_of, heads_of, images_of
from .stems import embedding_of
from .translate import Entry, Theirs, canonical_shapes, fill

DOCUMENT = "torchvision.json"
# The families that have names here.
HOLDS: tuple[type[Config], ...] = (VitConfig, SwinConfig)
TARGET = Directory(
    documents=(DOCUMENT,), is_ours=lambda path: find_json(path / DOCUMENT).get("format") == "torchvision"
)
_LAYER = "encoder.layers.encoder_layer_{i}"
# What torchvision's `ConvStemConfig` calls channels, kernel and stride.
_CONV = ("out_channels", "kernel_size", "stride")


def table(*, old_names: bool = False, stem_convs: int = 0) -> list[Entry]:
    """Where torchvision keeps each tensor.

    Args:
        old_names: Whether files from before torchvision 0.14 have other names.
        stem_convs: Convolutions of a convolutional stem before its last one; 0 where it has none.
    """
    mlp = ("linear_1", "linear_2") if old_names else ("0", "3")
    return [
        Entry("cls_token", "class_token"),
        Entry("pos_embed", "encoder.pos_embedding"),
        Entry("patch_embed.proj", "conv_proj"),
        Entry(f"patch_embed.stem.{stem_convs}.conv", "conv_proj.conv_last"),
        Entry("patch_embed.stem.{i}.conv", "conv_proj.conv_bn_relu_{i}.0"),
        Entry("patch_embed.stem.{i}.norm", "conv_proj.conv_bn_relu_{i}.1"),
        Entry("blocks.{i}.norm1", f"{_LAYER}.ln_1"),
        Entry("blocks.{i}.attn.qkv.weight", f"{_LAYER}.self_attention.in_proj_weight"),
        Entry("blocks.{i}.attn.qkv.bias", f"{_LAYER}.self_attention.in_proj_bias"),
        Entry("blocks.{i}.attn.proj", f"{_LAYER}.self_attention.out_proj"),
        Entry("blocks.{i}.norm2", f"{_LAYER}.ln_2"),
        Entry("blocks.{i}.mlp.fc1", f"{_LAYER}.mlp.{mlp[0]}"),
        Entry("blocks.{i}.mlp.fc2", f"{_LAYER}.mlp.{mlp[1]}"),
        Entry("norm", "encoder.ln"),
        Entry("pre_logits.fc", "heads.pre_logits"),
        Entry("head", "heads.head"),
    ]


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens a state dict of torchvision's, alone or with `torchvision.json`; no tensor is read.

    Args:
        opened: A file, or a directory that was written here.
        given: What the user says.

    Raises:
        CheckpointError: Not a torchvision ViT, or tensors that don't fit.
    """
    path, weights = opened.path, opened.weights("torchvision")
    document = read_document(path, DOCUMENT, "arguments")
    if weights.kind == "torchvision_swin":
        return torchvision_swin.read(weights, given, document, path)
    config = _config(weights.shapes, document, given, path)
    names = table(old_names=_has_old_names(weights.shapes), stem_convs=len(config.stem_convs))
    filled = fill(names, config, source=str(path))
    return checkpoint_of(weights, given, config, filled, path=path, format="torchvision")


def write(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` with torchvision's names, and `torchvision.json`, whole or not at all.

    `torchvision.models.VisionTransformer(**json["arguments"])` then loads the tensors strictly; JSON has no
    `ConvStemConfig`, so of `conv_stem_configs` each has to be made one: `ConvStemConfig(**entry)`.

    Args:
        path: The directory; an older one is replaced.
        config: The config of the model.
        tensors: The tensors by canonical name.
        name: Ignored, for the format has no place for it.
        source: Ignored, for the format has no place for it.

    Raises:
        CheckpointError: A config that torchvision's ViT or Swin can't express; names the fields.
    """
    path = Path(path)
    if isinstance(config, SwinConfig):
        theirs, document = torchvision_swin.expressed(path, config, tensors)
        write_directory(path, TARGET, theirs, {DOCUMENT: document})
        return
    config = VitConfig.of(config)
    if not config.num_classes:
        raise CheckpointError(f"{path}: num_classes: got 0, and torchvision's ViT always has a head; say --num-classes")
    convs = config.stem_convs
    theirs = Theirs(fill(table(stem_convs=len(convs)), config, source=str(path)), tensors)
    arguments: dict[str, Any] = {
        "image_size": config.image_size[0],
        "patch_size": config.patch_size[0],
        "num_layers": config.depth,
        "num_heads": config.num_heads,
        "hidden_dim": config.embed_dim,
        "mlp_dim": config.mlp_dim,
        "num_classes": config.num_classes,
        "representation_size": config.pre_logits_dim,
    }
    if convs:
        arguments["conv_stem_configs"] = [dict(zip(_CONV, conv, strict=True)) for conv in convs]
    document = {
        "format": "torchvision",
        "arguments": arguments,
        "preprocessing": jsonable(asdict(config.preprocessing)),
    }
    shapes = theirs.shapes()
    hold_against(config, lambda: _config(shapes, document, Given(), path), path=path, format="torchvision")
    write_directory(path, TARGET, theirs, {DOCUMENT: document})


def _config(shapes: Mapping[str, Shape], document: Mapping[str, Any], given: Given, path: Path) -> VitConfig:
    """The config that shapes make, with what they don't show from a document, the user, or the published models."""

    def size(name: str, axes: int) -> Shape:
        return shape_of(shapes, name, axes, path=path)

    arguments = document.get("arguments", {})
    embedding = _embedding(shapes, arguments, given, path)
    patch_size, dim = embedding["patch_size"], embedding["embed_dim"]
    count = size("encoder.pos_embedding", 3)[1]
    hidden = size(f"{_LAYER.format(i=0)}.mlp.{'linear_1' if _has_old_names(shapes) else '0'}.weight", 2)[0]
    side = arguments.get("image_size")
    grid = grid_of(given, count, patch_size, {"all": 1}, path=path, known=None if side is None else (side, side))
    images = None
    if "preprocessing" in document:
        try:
            images = build(Preprocessing, document["preprocessing"], "preprocessing")
        except ValueError as error:
            raise CheckpointError(f"{path / DOCUMENT}: {error}") from None
    published = _preprocessing(grid["image_size"], patch_size)
    classes = size("heads.head.weight", 2)[0] if "heads.head.weight" in shapes else 0
    return make(
        path,
        **grid,
        **embedding,
        depth=depth_of(shapes, r"encoder\.layers\.encoder_layer_(\d+)\."),
        num_heads=heads_of(given, dim, path=path, shown=arguments.get("num_heads")),
        mlp_dim=hidden,
        num_classes=given.settle("num_classes", shown=classes, path=path),
        head_bias="heads.head.bias" in shapes or not classes,
        pre_logits_dim=size("heads.pre_logits.weight", 2)[0] if "heads.pre_logits.weight" in shapes else None,
        norm_eps=given.take("norm_eps", 1e-6),
        pos_embed_resize=given.take("pos_embed_resize", "bicubic_align_corners"),
        preprocessing=images_of(
            given,
            embedding["in_chans"],
            known=images,
            usual=published,
            why="that of torchvision's weights of this size",
        ),
    )


def _embedding(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], given: Given, path: Path) -> dict[str, Any]:
    """The fields of `conv_proj`, one convolution or several."""
    depth = depth_of(shapes, r"conv_proj\.conv_bn_relu_(\d+)\.")
    stem = [f"conv_bn_relu_{i}.0.weight" for i in range(depth)] + ["conv_last.weight"]
    for name in stem if depth else ["weight"]:
        shape_of(shapes, f"conv_proj.{name}", 4, path=path)  # says what the file calls it
    known: dict[str, Any] = {"stem_norm_eps": given.take("stem_norm_eps", 1e-5)}
    if "conv_stem_configs" in arguments:
        known["stem_convs"] = [[conv[name] for name in _CONV] for conv in arguments["conv_stem_configs"]]
    return embedding_of(canonical_shapes(table(stem_convs=depth), shapes), given, path=path, known=known)


def _has_old_names(shapes: Mapping[str, Shape]) -> bool:
    return any(".mlp.linear_1." in name for name in shapes)


def _preprocessing(image_size: tuple[int, int], patch_size: tuple[int, int]) -> Preprocessing:
    if image_size[0] > 224 or patch_size[0] == 14:
        return Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=1.0)
    return Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear", crop_pct=224 / 256)
