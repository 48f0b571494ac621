"""Configs of open_clip's towers from names and shapes, where no document stands beside them.

OpenAI's archives of CLIP (`ViT-B-32.pt`, `ViT-L-14-336px.pt`) hold three numbers among the tensors,
`input_resolution`, `context_length` and `vocab_size`, and are models of one code: heads of 64, QuickGELU, an epsilon of
1e-5, the class token. open_clip's files show neither the heads, nor the GELU, nor the epsilon, nor how tokens are
pooled: heads of 64, 1e-5 and the class token are what nearly all of its models have, and so assumed; the GELU is asked
for, since both kinds are common.

Source: open_clip `model.py` (`CLIPVisionCfg`, `build_model_from_openai_state_dict`), OpenAI's CLIP `model.py`
(`build_model`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...configs import VitConfig, get
from ..accounting import CheckpointError
from ..assumed import Given, say
from ..shapes import Shape
from .canonical import Known, infer
from .foreign import depth_of, shape_of
from .open_clip_config import DEFAULTS, preprocessing
from .open_clip_models import own_names
from .settled import heads_of
from .translate import Entry, canonical_shapes
from .weights import Weights

# The numbers that OpenAI's archives have among the tensors.
SCALARS = ("input_resolution", "context_length", "vocab_size")
# open_clip's default is OpenAI's.
CLIP_IMAGES = preprocessing({})
_USUAL_IMAGES = (CLIP_IMAGES, "open_clip's default; some of its weights have ImageNet's mean, or 0.5")
# Of open_clip's models of these widths; 64 of all others.
_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}
# What open_clip's code does, whatever the model.
_ALWAYS = dict(pool_include_prefix=False, pos_embed_resize="bicubic_antialias", rope=None)
_KERNEL, _POSITIONS = "visual.conv1.weight", "visual.positional_embedding"
_BLOCK = "visual.transformer.resblocks.0"
_SHOWN = 4


def is_openai(weights: Weights) -> bool:
    """Whether tensors are of one of OpenAI's archives, or a copy of one."""
    return all(name in weights.tensors for name in SCALARS)


def own_config(weights: Weights, given: Given, table: tuple[Entry, ...], *, path: Path) -> VitConfig:
    """The config of one of open_clip's own towers, or of OpenAI's.

    Args:
        weights: The tensors, under `visual.`.
        given: What the user says; collects what is assumed.
        table: Where each tensor is kept.
        path: What errors call the file.

    Raises:
        CheckpointError: Shapes that make no tower, a contradiction, or something that has to be asked for.
    """
    of_code = _of_openai(weights, given, path) if is_openai(weights) else _of_open_clip(weights.shapes, given, path)
    other = "norm" if of_code["global_pool"] == "avg" and _after_pool(given) else "fc_norm"
    shapes = canonical_shapes([entry for entry in table if entry.ours != other], weights.shapes)
    return infer(shapes, given, path=path, known=Known(_ALWAYS | of_code, prefix=("all",), usual_images=_USUAL_IMAGES))


def trunk_config(shapes: Mapping[str, Shape], given: Given, *, path: Path) -> VitConfig:
    """The config of a tower of timm's.

    Args:
        shapes: The shapes by canonical name, the projection as the head.
        given: What the user says; collects what is assumed.
        path: What errors call the file.
    """
    images = _USUAL_IMAGES
    if "patch_embed.stem.0.conv.weight" in shapes:
        images = (get("vit_base_mci_224").preprocessing, "that of MobileCLIP")
    return infer(shapes, given, path=path, known=Known(usual_images=images))


def _of_openai(weights: Weights, given: Given, path: Path) -> dict[str, Any]:
    """What OpenAI's code has in every model. Their own number says which grid the positions are of."""
    width, _, *patch_size = shape_of(weights.shapes, _KERNEL, 4, path=path)
    side = _whole(weights, "input_resolution", path)
    count = shape_of(weights.shapes, _POSITIONS, 2, path=path)[0]
    if math.prod(side // patch for patch in patch_size) + 1 == count:
        given.fields["image_size"] = given.settle("image_size", shown=(side, side), path=path)  # as good as said
    elif "image_size" not in given.fields:
        raise CheckpointError(
            f"{path}: input_resolution: got {side}, but {_POSITIONS} has {count - 1} positions of patches; for the "
            f"size that the positions are of {_say_size(count - 1, patch_size)}"
        )
    return dict(
        num_heads=given.settle("num_heads", shown=max(width // 64, 1), path=path),
        act=given.settle("act", shown="quick_gelu", path=path),
        norm_eps=given.settle("norm_eps", shown=1e-5, path=path),
        global_pool=given.take("global_pool", "token"),
        preprocessing=CLIP_IMAGES,
    )


def _whole(weights: Weights, name: str, path: Path) -> int:
    shape_of(weights.shapes, name, 0, path=path)
    value = float(weights.tensors[name])
    if not value.is_integer():
        raise CheckpointError(f"{path}: {name}: got {value}, expected a whole number")
    return int(value)


def _of_open_clip(shapes: Mapping[str, Shape], given: Given, path: Path) -> dict[str, Any]:
    """What open_clip's code leaves to a model's config and no tensor shows."""
    width = shape_of(shapes, _KERNEL, 4, path=path)[0]
    head_width = _HEAD_WIDTHS.get(width, 64)
    pre_norm = "visual.ln_pre.weight" in shapes
    if "global_pool" not in given.fields and given.like is not None and given.like.pre_norm != pre_norm:
        raise CheckpointError(
            f"{path}: pre_norm: named model: {given.like.pre_norm}, file: {pre_norm}, so it may pool another way, too; "
            f"{say('global_pool', 'avg', value='token')}, or name another model"
        )
    questions = []
    if not given.says("act"):
        questions.append(
            "which GELU it has: --set act=gelu (open_clip's default), --set act=quick_gelu (OpenAI's weights, "
            "MetaCLIP, DFN, names that end in -quickgelu) or --set act=gelu_tanh"
        )
    if not pre_norm and not given.says("global_pool"):
        questions.append(
            "how tokens are pooled without ln_pre: --set global_pool=avg --set fc_norm=true (CLIPA's), --set "
            "global_pool=avg --set fc_norm=false or --set global_pool=token"
        )
    shows_heads = f"{_BLOCK}.attn.ln_q.weight" in shapes
    if not shows_heads and not given.says("num_heads") and width % head_width:
        questions.append(f"how many heads a width of {width} has: --set num_heads=N")
    if questions:
        names = _names(shapes, pre_norm, path)
        or_named = f", or name the model, such as --model {' or '.join(names)}" if names else ""
        asked = "; ".join(questions)
        raise CheckpointError(f"{path}: open_clip's tensors don't show {asked}{or_named} (in Python act=, model=, ...)")
    return dict(
        num_heads=_heads(shapes, given, width, head_width, path),
        act=given.settle("act", path=path),
        norm_eps=given.settle("norm_eps", usual=1e-5, why="open_clip's default", path=path),
        global_pool=given.settle("global_pool", usual="token", why="open_clip's default", path=path),
    )


def _heads(shapes: Mapping[str, Shape], given: Given, width: int, head_width: int, path: Path) -> int:
    if (norm := f"{_BLOCK}.attn.ln_q.weight") in shapes:
        return heads_of(given, width, path=path, shown=width // shape_of(shapes, norm, 1, path=path)[0])
    if given.says("num_heads"):
        return heads_of(given, width, path=path)
    return given.settle(
        "num_heads", usual=width // head_width, why=f"heads of {head_width}, as open_clip's models have"
    )


def _after_pool(given: Given) -> bool:
    """Whether the last norm follows the pooling; for a mean it makes a difference."""
    if "fc_norm" in given.fields:
        return bool(given.take("fc_norm"))
    if given.like is not None and given.like.global_pool == "avg":
        return given.like.fc_norm
    return given.assume("fc_norm", False, "open_clip's default: the mean is of normalised tokens")


def _names(shapes: Mapping[str, Shape], pre_norm: bool, path: Path) -> list[str]:
    """open_clip's names of towers with these shapes."""
    width, _, height, patch = shape_of(shapes, _KERNEL, 4, path=path)
    count = shape_of(shapes, _POSITIONS, 2, path=path)[0] - 1
    found = []
    for name, vision in own_names():
        cfg = DEFAULTS | vision
        same = (cfg["width"], cfg["patch_size"], cfg["no_ln_pre"]) == (width, patch, not pre_norm)
        depth = depth_of(shapes, r"visual\.transformer\.resblocks\.(\d+)\.")
        if same and height == patch and cfg["layers"] == depth and (cfg["image_size"] // patch) ** 2 == count:
            found.append(name)
    return found[:_SHOWN]


def _say_size(patches: int, patch_size: list[int]) -> str:
    side = math.isqrt(patches)
    value = "x".join(str(side * patch) for patch in patch_size) if side * side == patches else "HEIGHTxWIDTH"
    return say("image_size", value=value)
