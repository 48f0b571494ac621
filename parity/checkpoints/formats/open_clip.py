"""open_clip's image towers: the directories of its hub repositories, and lone files of a model that is named.

A tower is open_clip's own ViT (`visual.transformer...`) or one of timm's (`visual.trunk...`) with a projection. Both
become a model whose head is the projection: its outputs are the image features before they are normalised. The text
tower is no part of this project: it is ignored with that reason, and what is written here has the image tower alone,
which `open_clip.model._build_vision_tower(embed_dim, vision_cfg, quick_gelu)` loads strictly.

Source: open_clip `transformer.py` (`VisionTransformer`), `timm_model.py`, `factory.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, name_of, replace
from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.document import read_json
from ..containers.files import WRITTEN_BY, Directory, is_by_us, write_directory
from ..containers.tensors import open_tensors, shapes_of
from ..shapes import Shape, parameter_shapes
from .foreign import depth_of, grid_fields, hold_against, known, make, shape_of, translated
from .open_clip_config import native_document, trunk_document, understood
from .timm import their_name
from .translate import Entry, Theirs, Unused, pair_up

DOCUMENT = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
# In the order in which open_clip looks for them.
_FILES = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")
_BLOCK = "visual.transformer.resblocks.{i}"
_TRUNK = "visual.trunk."
_TEXT = r"(text|transformer|token_embedding|ln_final|text_decoder)\..*|positional_embedding|text_projection|attn_mask"

UNUSED = (
    Unused(rf"{_TEXT}|logit_scale|logit_bias", "text tower or temperature: the image tower alone is read"),
    Unused(r"visual\.trunk\..*relative_position_index", "follows from the grid"),
)

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


def is_open_clip(path: Path) -> bool:
    """Whether a directory is one of open_clip's."""
    return (path / DOCUMENT).is_file()


TARGET = Directory(documents=(DOCUMENT,), is_ours=lambda path: is_by_us(path / DOCUMENT), weights=WEIGHTS)


def has_open_clip_names(names: Mapping[str, Any]) -> bool:
    """Whether the tensors of a lone file have the names of an open_clip image tower."""
    return any(name.startswith((_TRUNK, "visual.conv1.", "visual.transformer.resblocks.")) for name in names)


def read(path: str | Path, *, model: str | None = None) -> Checkpoint:
    """Opens open_clip's directory, or a file of its names; no tensor is read.

    Args:
        path: The directory with `open_clip_config.json`, or a lone file.
        model: A registered name, which a lone file needs: it doesn't show the GELU, say.

    Raises:
        CheckpointError: An option of open_clip's that no model here has, named; or tensors that don't fit.
    """
    path = Path(path)
    if path.is_dir():
        file = path / DOCUMENT
        document = read_json(file)
        try:
            config, name = understood(document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{file}: {error}") from None
        weights = next((path / file for file in _FILES if (path / file).is_file()), path)
        tensors = open_tensors(weights)
        table = _trunk_table(config, shapes_of(tensors), name) if name else NATIVE
        return translated(path, config, table, tensors, unused=UNUSED, name=name, format="open_clip")
    tensors = open_tensors(path)
    like = known(model)
    if like is None:
        raise CheckpointError(f"{path}: a lone file doesn't say which model it is; name one, such as --model NAME")
    shapes = shapes_of(tensors)
    trunk = any(name.startswith(_TRUNK) for name in shapes)
    config = _lone_trunk(shapes, like) if trunk else _lone_native(shapes, like, path)
    table = _trunk_table(config, shapes, model or "") if trunk else NATIVE
    return translated(path, config, table, tensors, unused=UNUSED, name=model, format="open_clip")


def write(
    path: str | Path,
    config: Config,
    tensors: Mapping[str, np.ndarray],
    *,
    name: str = "",
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes `open_clip_config.json` and `open_clip_model.safetensors` of an image tower, whole or not at all.

    Preprocessing is kept but for `crop_pct`, which open_clip doesn't have.

    Args:
        path: The directory; an older one is replaced.
        config: Of the model: one that open_clip's own ViT can be, or timm's of that name.
        tensors: By canonical name.
        name: The registered name; found by the config if there is one.
        source: Not kept.

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
    pairs = pair_up(_trunk_table(config, {}, name) if name else NATIVE, config, source=str(path))
    write_directory(path, TARGET, Theirs(pairs, tensors), {DOCUMENT: document | WRITTEN_BY})


def _lone_native(shapes: Mapping[str, Shape], like: Config, path: Path) -> Config:
    """A native tower's config: sizes from the tensors, the rest from the named model."""
    dim, channels, height, width = shape_of(shapes, "visual.conv1.weight", 4, path=path)
    positions = shape_of(shapes, "visual.positional_embedding", 2, path=path)[0]
    block = _BLOCK.format(i=0)
    if like.embed_dim != dim:
        raise CheckpointError(
            f"{path}: visual.conv1.weight: got width {dim}, expected {like.embed_dim} of the named model"
        )
    fields = {
        field: getattr(like, field)
        for field in ("num_heads", "act", "norm_eps", "global_pool", "fc_norm", "final_norm")
    }
    return make(
        path,
        **fields,
        **grid_fields(positions - 1, (height, width), like, path=path),
        patch_size=(height, width),
        in_chans=channels,
        embed_dim=dim,
        depth=depth_of(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
        mlp_dim=shape_of(shapes, f"{block}.mlp.c_fc.weight", 2, path=path)[0],
        num_classes=shape_of(shapes, "visual.proj", 2, path=path)[1],
        patch_bias=False,
        head_bias=False,
        pre_norm="visual.ln_pre.weight" in shapes,
        qk_norm=f"{block}.attn.ln_q.weight" in shapes,
        attn_norm=f"{block}.attn.ln_inner.weight" in shapes,
        mlp_norm=f"{block}.mlp.ln.weight" in shapes,
        layer_scale_init=1e-5 if f"{block}.ls_1.gamma" in shapes else None,
        preprocessing=like.preprocessing,
    )


def _lone_trunk(shapes: Mapping[str, Shape], like: Config) -> Config:
    for name, in_head in ((f"{_TRUNK}head.weight", False), ("visual.head.proj.weight", True)):
        if name in shapes:
            bias = name.replace(".weight", ".bias") in shapes
            return replace(like, num_classes=shapes[name][0], head_bias=bias if in_head else like.head_bias)
    return replace(like, num_classes=0)


def _trunk_table(config: Config, shapes: Mapping[str, Shape], architecture: str) -> tuple[Entry, ...]:
    """Names of timm behind a prefix, and the projection: in the trunk if it has timm's bias, else behind it."""
    outside = "visual.head.proj.weight" in shapes if shapes else not config.head_bias
    head = "visual.head.proj" if outside else f"{_TRUNK}head"
    names = [name for name in parameter_shapes(config) if not name.startswith("head.")]
    return (Entry("head", head), *(Entry(name, _TRUNK + their_name(name, architecture)) for name in names))
