"""open_clip's image towers: the directories of its hub repositories, and lone files of a model that is named.

A tower is open_clip's own ViT (`visual.transformer...`) or one of timm's (`visual.trunk...`) with a projection. Both
become a model whose head is the projection: its outputs are the image features before they are normalised. The text
tower is no part of this project: it is ignored with that reason, and what is written here has the image tower alone,
which `open_clip.model._build_vision_tower(embed_dim, vision_cfg, quick_gelu)` loads strictly.

Source: open_clip `transformer.py` (`VisionTransformer`), `timm_model.py`, `factory.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import configs
from ...configs import Config, VitConfig, name_of
from ..accounting import CheckpointError
from ..assumed import Given, say
from ..checkpoint import Checkpoint
from ..containers.files import WRITTEN_BY, Directory, is_by_us, write_directory
from ..shapes import Shape, parameter_shapes
from .foreign import checkpoint_of, hold_against
from .open_clip_config import native_document, trunk_document, understood
from .open_clip_files import DOCUMENT, WEIGHTS, Document, find_document, is_open_clip, weights_file
from .open_clip_tensors import SCALARS, is_openai, own_config, trunk_config
from .opened import Opened
from .settled import images_of
from .timm import our_name, their_name
from .translate import Entry, Theirs, Unused, canonical_shapes, fill
from .weights import Weights

__all__ = ["DOCUMENT", "NATIVE", "TARGET", "UNUSED", "WEIGHTS", "is_open_clip", "read", "write"]

TRUNK = "visual.trunk."
_PROJECTION = "visual.head.proj"
_BLOCK = "visual.transformer.resblocks.{i}"
# Of open_clip's own towers, of timm's, and of MobileCLIP-B's, which has a stem of convolutions.
_KERNELS = ("visual.conv1.weight", f"{TRUNK}patch_embed.proj.weight", f"{TRUNK}patch_embed.backbone.0.conv.weight")
# What no tensor shows.
_HIDDEN = ("num_heads", "act", "norm_eps", "global_pool")
_TEXT = (
    r"(text|text_encoder|text_decoder|transformer|token_embedding|ln_final)\..*"
    r"|positional_embedding|text_projection|attn_mask"
)

UNUSED = (
    Unused(rf"{_TEXT}|logit_scale|logit_bias", "text tower or temperature: the image tower alone is read"),
    Unused("|".join(SCALARS), "a size that the tensors have, too"),
    Unused(r"visual\.trunk\..*relative_position_index", "follows from the grid"),
)
# Towers that can be told by a name, and are no model here.
_OTHERS = {
    r"visual\.layer1\.": "a ResNet, expected a Vision Transformer",
    r"visual\.trunk\.(?:stem|stages)\.": "a convolutional tower of timm's, expected a flat Vision Transformer",
    r"visual\.attn_pool": "attentional_pool of vision_cfg, as CoCa has it, which no model here has",
    r"visual\..*\.attn\.logit_scale": "scaled_cosine_attn of vision_cfg, which no model here has",
    r"visual\..*\.attn\.head_scale": "scale_heads of vision_cfg, which no model here has",
    r"visual\..*\.ln_attn\.": "scale_attn of vision_cfg, which no model here has",
    r"visual\.head\.mlp\.": "timm_proj=mlp of vision_cfg, which no model here has",
    r"(?:classifier|heads?|fc|linear)\.": "a layer behind the image features; leave it out with --ignore '{top}.*'",
    r"visual\..*\.lora_": "LoRA beside the weights; merge it into them (PEFT's merge_and_unload) and save again",
}

NATIVE = (
    Entry("cls_token", "visual.class_embedding", "d -> 1 1 d"),
    Entry("pos_embed", "visual.positional_embedding", "n d -> 1 n d"),
    Entry("patch_embed.proj.weight", "visual.conv1.weight"),
    Entry("norm_pre", "visual.ln_pre"),
    Entry("blocks.{i}.norm1", f"{_BLOCK}.ln_1"),
    Entry("blocks.{i}.attn.qkv.weight", f"{_BLOCK}.attn.in_proj_weight"),
    Entry("blocks.{i}.attn.qkv.bias", f"{_BLOCK}.attn.in_proj_bias"),
    Entry("blocks.{i}.attn.q_norm", f"{_BLOCK}.attn.ln_q"),
    Entry("blocks.{i}.attn.k_norm", f"{_BLOCK}.attn.ln_k"),
    Entry("blocks.{i}.attn.norm", f"{_BLOCK}.attn.ln_inner"),
    Entry("blocks.{i}.attn.proj", f"{_BLOCK}.attn.out_proj"),
    Entry("blocks.{i}.ls1.gamma", f"{_BLOCK}.ls_1.gamma"),
    Entry("blocks.{i}.norm2", f"{_BLOCK}.ln_2"),
    Entry("blocks.{i}.mlp.fc1", f"{_BLOCK}.mlp.c_fc"),
    Entry("blocks.{i}.mlp.norm", f"{_BLOCK}.mlp.ln"),
    Entry("blocks.{i}.mlp.fc2", f"{_BLOCK}.mlp.c_proj"),
    Entry("blocks.{i}.ls2.gamma", f"{_BLOCK}.ls_2.gamma"),
    Entry("norm", "visual.ln_post"),
    Entry("fc_norm", "visual.ln_post"),
    Entry("head.weight", "visual.proj", "d out -> out d"),
)
# MobileCLIP-B's own file, which is no file of open_clip's, but an image and a text tower as those are.
MOBILECLIP = (
    Entry("cls_token", "cls_token"),
    Entry("pos_embed", "pos_embed.pos_embed.pos_embed", "1 1 n d -> 1 n d"),
    Entry("patch_embed.stem.{i}.conv", "patch_emb.{i}.block.conv"),
    Entry("patch_embed.stem.{i}.norm", "patch_emb.{i}.block.norm"),
    Entry("blocks.{i}.norm1", "transformer.{i}.pre_norm_mha.0"),
    Entry("blocks.{i}.attn.qkv", "transformer.{i}.pre_norm_mha.1.qkv_proj"),
    Entry("blocks.{i}.attn.proj", "transformer.{i}.pre_norm_mha.1.out_proj"),
    Entry("blocks.{i}.norm2", "transformer.{i}.pre_norm_ffn.0"),
    Entry("blocks.{i}.mlp.fc1", "transformer.{i}.pre_norm_ffn.1"),
    Entry("blocks.{i}.mlp.fc2", "transformer.{i}.pre_norm_ffn.4"),
    Entry("norm", "post_transformer_norm"),
    Entry("head.weight", "classifier.proj", "d out -> out d"),
)

# The families that have names here.
HOLDS: tuple[type[Config], ...] = (VitConfig,)
TARGET = Directory(documents=(DOCUMENT,), is_ours=lambda path: is_by_us(path / DOCUMENT), weights=WEIGHTS)


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens a directory of open_clip's, a run of its training, or a file of its names or OpenAI's; no tensor is read.

    Args:
        opened: The directory with `open_clip_config.json` or `params.txt`, a file of one, or a lone file.
        given: What the user says; collects what is assumed.

    Raises:
        CheckpointError: An option of open_clip's that no model here has, named; tensors that don't fit; a
            contradiction; or what a lone file doesn't show.
    """
    path = opened.path
    document = find_document(path)
    config, name = (None, None) if document is None else _understood(document)
    weights = opened.weights("open_clip", weights_file(path))
    if weights.kind == "mobileclip":
        config = trunk_config(canonical_shapes(MOBILECLIP, weights.shapes), given, path=path)
        filled = fill(MOBILECLIP, config, source=str(path))
        return checkpoint_of(weights, given, config, filled, path=path, unused=UNUSED, format="open_clip")
    weights = _with_whole_names(weights)
    _refuse_others(weights.shapes, path)
    is_trunk = any(name.startswith(TRUNK) for name in weights.shapes)
    if config is not None and document is not None:
        config = _at_its_size(config, weights.shapes, given, document, path)
        _hold_against_model(config, given, path, document.file.name)
        given.assumed.extend(assumption for assumption in document.assumed if assumption.field not in given.fields)
    elif is_trunk:
        config = trunk_config(_trunk_shapes(weights.shapes), given, path=path)
    else:
        config = own_config(weights, given, NATIVE, path=path)
        if is_openai(weights):
            _hold_against_model(config, given, path, "file")
    table = _trunk_table(config, weights.shapes, name or "") if is_trunk or name else NATIVE
    filled = fill(table, config, source=str(path))
    found = checkpoint_of(weights, given, config, filled, path=path, unused=UNUSED, name=name, format="open_clip")
    return found if document is None else replace(found, source={**found.source, "document": str(document.file)})


def write(
    path: str | Path,
    config: VitConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes `open_clip_config.json` and `open_clip_model.safetensors` of an image tower, whole or not at all.

    Preprocessing is kept but for `crop_pct`, which open_clip doesn't have.

    Args:
        path: The directory; an older one is replaced.
        config: The config of a model that open_clip's own ViT can be, or timm's of that name.
        tensors: The tensors by canonical name.
        name: The registered name; found by the config if there is one.
        source: Ignored, for the format has no place for it.

    Raises:
        CheckpointError: A config that open_clip can't express; names the fields.
    """
    path = Path(path)
    is_native = not config.patch_bias and not config.head_bias and config.class_token
    name = "" if is_native else name or name_of(config)
    if not is_native and not name:
        raise CheckpointError(f"{path}: neither open_clip nor timm has an architecture for this config")
    document = trunk_document(config, name) if name else native_document(config)
    hold_against(config, lambda: understood(document)[0], path=path, format="open_clip")
    filled = fill(_trunk_table(config, {}, name) if name else NATIVE, config, source=str(path))
    write_directory(path, TARGET, Theirs(filled, tensors), {DOCUMENT: document | WRITTEN_BY})


def _understood(document: Document) -> tuple[VitConfig, str | None]:
    try:
        config, name = understood(document.data)
        return config, name or None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{document.file}: {error}") from None


def _with_whole_names(weights: Weights) -> Weights:
    """The weights with `visual.` before all names of a tower that was saved alone."""
    if any(name.startswith("visual.") for name in weights.tensors):
        return weights
    arrays = {f"visual.{name}": array for name, array in weights.tensors.arrays.items()}
    return replace(weights, tensors=replace(weights.tensors, arrays=arrays))


def _refuse_others(shapes: Mapping[str, Shape], path: Path) -> None:
    for name in shapes:
        for pattern, what in _OTHERS.items():
            if re.match(pattern, name):
                raise CheckpointError(f"{path}: {name}: {what.format(top=name.partition('.')[0])}")


def _hold_against_model(config: VitConfig, given: Given, path: Path, source: str) -> None:
    """What a file says comes before a model that is named; where they differ, one of the two is a mistake."""
    for field in () if given.like is None else _HIDDEN:
        ours, named = getattr(config, field), getattr(given.like, field)
        if ours != named and field not in given.fields:
            how = "" if source == "file" else f"; if {source} is wrong, {say(field)}"
            got = f"named model: {named!r}, {source}: {ours!r}"
            raise CheckpointError(f"{path}: {field}: {got}; leave the name out{how}")


def _at_its_size(
    config: VitConfig, shapes: Mapping[str, Shape], given: Given, document: Document, path: Path
) -> VitConfig:
    """A document's config with the image size and the channels of the tensors, which fine-tuning may have changed."""
    size = given.take("image_size") or config.image_size
    partial = any(side % patch for side, patch in zip(size, config.patch_size, strict=True))
    config = configs.replace(config, image_size=size, drop_partial_patches=partial)
    count = shapes.get("visual.positional_embedding", (config.num_patches + 1,))[0]
    if count != config.num_patches + 1:
        side = math.isqrt(max(count - 1, 0))
        whole = "x".join(str(side * patch) for patch in config.patch_size)
        raise CheckpointError(
            f"{path}: visual.positional_embedding: got {count - 1} positions of patches, but {document.file.name} says "
            f"image_size {size[0]}x{size[1]}, which has {config.num_patches}; for the size that the positions are of "
            f"{say('image_size', value=whole if side * side == count - 1 else 'HEIGHTxWIDTH')}"
        )
    kernel = next((shapes[name] for name in _KERNELS if name in shapes), ())
    if len(kernel) != 4 or kernel[1] == config.in_chans:
        return config
    images = images_of(given, kernel[1], known=config.preprocessing, usual=config.preprocessing, why="")
    return configs.replace(config, in_chans=kernel[1], preprocessing=images)


def _trunk_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Canonical names of timm's behind a prefix, the projection as the head."""
    found = {our_name(name.removeprefix(TRUNK)): shape for name, shape in shapes.items() if name.startswith(TRUNK)}
    head = {name.replace(_PROJECTION, "head"): shape for name, shape in shapes.items() if name.startswith(_PROJECTION)}
    return found | head


def _trunk_table(config: VitConfig, shapes: Mapping[str, Shape], architecture: str = "") -> tuple[Entry, ...]:
    """Names of timm behind a prefix, and the projection: in the trunk if it has timm's bias, else behind it."""
    outside = f"{_PROJECTION}.weight" in shapes if shapes else not config.head_bias
    head = _PROJECTION if outside else f"{TRUNK}head"
    found = {our_name(name.removeprefix(TRUNK)): name for name in shapes if name.startswith(TRUNK)}
    names = [name for name in parameter_shapes(config) if not name.startswith("head.")]
    entries = (Entry(name, found.get(name) or TRUNK + their_name(name, architecture)) for name in names)
    return (Entry("head", head), *entries)
