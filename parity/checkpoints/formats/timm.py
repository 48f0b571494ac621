"""timm's format: the directory that its hub repositories hold, or one file of tensors.

Canonical names and layout are timm's own, so tensors pass through as they are, but for the LayerScale of its `eva` and
`beit` modules; what is translated is `config.json`. Source: timm `models/_hub.py` (`load_model_config_from_path`,
`save_for_hf`) and the constructors of its models.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...configs import Config, VitConfig, close_match, replace
from ...configs.eva import EVA_AND_BEIT
from ..accounting import CheckpointError
from ..assumed import Given, say, with_fields
from ..checkpoint import Checkpoint
from ..containers.document import find_json, read_json
from ..containers.files import WRITTEN_BY, Directory, is_by_us, write_directory
from ..shapes import Shape, parameter_shapes
from . import timm_mobilevit, timm_pvt, timm_resnet, timm_swin
from .canonical import Known, infer
from .foreign import checkpoint_of
from .meta_names import MASK_TOKEN
from .native import CONFIG
from .opened import Opened
from .timm_arguments import POOLS, architectures, config_of, expressed, images_of
from .translate import FilledEntry, Theirs, Unused
from .weights import Weights

UNUSED = (
    Unused(r"(.*\.)?relative_position_index", "follows from the grid"),
    Unused(r"(.*\.)?(attn_mask|relative_coords_table)", "follows from the windows"),
    Unused(r"rope\.(bands|periods|t_[xy]|pos_embed(_cached)?)", "rotary positions, which follow from the config"),
    # Buffers that a state_dict leaves out and an archive of TorchScript has.
    Unused(r"(.*\.)?attn\.k_bias", "checked to be zeros: the key has no bias"),
    MASK_TOKEN,
)


def our_name(name: str) -> str:
    """The canonical name of one of timm's tensors."""
    if match := re.fullmatch(r"patch_embed\.backbone\.(\d+)\.(conv|bn)\.(.*)", name):
        layer, kind, rest = match.groups()
        return f"patch_embed.stem.{layer}.{'norm' if kind == 'bn' else kind}.{rest}"
    return re.sub(r"(blocks\.\d+)\.gamma_([12])", r"\1.ls\2.gamma", name)


def their_name(name: str, architecture: str) -> str:
    """The inverse of `our_name`, for one of timm's architectures."""
    if match := re.fullmatch(r"patch_embed\.stem\.(\d+)\.(conv|norm)\.(.*)", name):
        layer, kind, rest = match.groups()
        return f"patch_embed.backbone.{layer}.{'bn' if kind == 'norm' else kind}.{rest}"
    if architecture not in EVA_AND_BEIT:
        return name
    return re.sub(r"(blocks\.\d+)\.ls([12])\.gamma", r"\1.gamma_\2", name)


def is_timm(path: Path) -> bool:
    """Whether a directory says that it is one of timm's."""
    data = find_json(path / CONFIG)
    return "architecture" in data and "format" not in data


# The other families: modules with the same functions.
_FAMILIES: tuple[ModuleType, ...] = (timm_swin, timm_pvt, timm_resnet, timm_mobilevit)
# The families that have names here.
HOLDS: tuple[type[Config], ...] = (VitConfig, *(family.FAMILY for family in _FAMILIES))
TARGET = Directory(documents=(CONFIG,), is_ours=lambda path: is_timm(path) and is_by_us(path / CONFIG))


def read(opened: Opened, given: Given) -> Checkpoint:
    """Opens timm's directory, or a file of tensors alone with whatever the user says of its model.

    Args:
        opened: The directory or file.
        given: What the user says; a model instead of the directory's own `architecture`, too.

    Raises:
        CheckpointError: Unknown architecture or argument, or tensors that don't fit; names the file and the field.
    """
    weights, path = opened.weights("timm"), opened.path
    _check_key_biases(weights)
    theirs = {our_name(name): name for name in weights.tensors}
    renamed = ((family, family.our_names(theirs)) for family in _FAMILIES)
    kind, theirs = next(((family, names) for family, names in renamed if family.is_kind(names)), (None, theirs))
    shapes = {name: weights.shapes[their] for name, their in theirs.items() if not _is_unused(their)}
    config: Config | None = None
    name = None
    if path.is_dir() and is_timm(path):
        config, name = _of_document(path / CONFIG, shapes, given)
    if config is None and kind is not None:
        config = kind.infer({name: weights.shapes[their] for name, their in theirs.items()}, given, path)
    elif config is None:
        config = infer(shapes, given, path=path, known=_known(weights, opened.tensors()))
    assert config is not None
    default = functools.partial(their_name, architecture=name or "")
    filled = [
        FilledEntry(ours, shape, (theirs.get(ours, default(ours)),), "", (), None)
        for ours, shape in parameter_shapes(config).items()
    ]
    return checkpoint_of(weights, given, config, filled, path=path, unused=UNUSED, name=name, format="timm")


def _of_document(file: Path, shapes: Mapping[str, Shape], given: Given) -> tuple[Config | None, str | None]:
    """The config of timm's document, and the architecture's name; None of a model that it doesn't say all of.

    What timm 0.8 and before wrote has no arguments, whatever the model was made with: its architecture then is as good
    as a model that the user names.
    """
    if given.model is not None and not given.name:
        return None, None
    data = read_json(file)
    try:
        name = (given.name or str(data["architecture"])).partition(".")[0]
        for family in _FAMILIES:
            if name in family.architectures():
                return _of_family(family, data, name, shapes, given), name
        if name not in architectures():
            known = [*architectures(), *(one for family in _FAMILIES for one in family.architectures())]
            which = (
                f"expected one of timm's ViTs, Swin Transformers, PVTs, ResNets or MobileViTs{close_match(name, known)}"
            )
            raise ValueError(f"architecture: got {name!r}, {which}; name the model that it is like with --model NAME")
        config = config_of(data, name, shapes)
        _check_classes(config, "head", shapes, given)
        is_whole = data.get("model_args") or parameter_shapes(config) == shapes
        given.model = config if given.like is not None or not is_whole else None  # the named one with the arguments
        if not is_whole:
            return None, None
        return with_fields(config, {field: given.take(field) for field in given.fields}), name
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: {error}") from None


def _of_family(
    family: ModuleType, data: Mapping[str, Any], name: str, shapes: Mapping[str, Shape], given: Given
) -> Config:
    """The config of a document of another family; a named model has the document's arguments, too."""
    config: Config = family.config_of(data, name)
    _check_classes(config, family.CLASSIFIER, shapes, given)
    config = replace(config, preprocessing=images_of(data, config, config.in_chans))
    given.model = config if given.model is not None else None
    return with_fields(config, {field: given.take(field) for field in given.fields})


def _check_classes(config: Config, classifier: str, shapes: Mapping[str, Shape], given: Given) -> None:
    """Whether the head is the document's: it isn't where somebody put another layer there and saved the model."""
    head = {name: shape for name, shape in shapes.items() if name.startswith(f"{classifier}.")}
    weight = head.get(f"{classifier}.weight", ())
    classes = weight[0] if len(weight) == 2 else 0
    # What is no whole head is told with all else that doesn't fit.
    is_whole = all(shape[:1] == (classes,) for shape in head.values())
    if "num_classes" in given.fields or config.num_classes == classes or not is_whole:
        return
    found = f"the head in the file has {classes}" if classes else "the file has no head"
    said = say("num_classes", value=str(classes))
    raise ValueError(f"num_classes: got {config.num_classes}, but {found}; if the file is right, {said}")


def write(path: str | Path, config: Config, tensors: Mapping[str, np.ndarray], *, name: str = "", **_: Any) -> None:
    """Writes a directory that `timm.create_model("local-dir:...", pretrained=True)` loads, whole or not at all.

    Raises:
        CheckpointError: timm has no architecture and arguments for the config, or something else is in the way.
    """
    path = Path(path)
    if config.preprocessing.channel_order != "rgb":
        raise CheckpointError(f"{path}: preprocessing.channel_order: got 'bgr', expected 'rgb', which is all timm has")
    family = next((family for family in _FAMILIES if isinstance(config, family.FAMILY)), None)
    if family is not None:
        architecture, arguments = family.expressed(path, config, name)
        shown: dict[str, Any] = dict(num_features=family.width(config), global_pool="avg")
        classifier: str | list[str] = family.CLASSIFIER
    else:
        config = VitConfig.of(config)
        architecture, arguments = expressed(path, config, name)
        shown = dict(num_features=config.embed_dim, global_pool=POOLS.get(config.global_pool, config.global_pool))
        classifier = ["head", "head_dist"] if config.dist_token else "head"
    images = config.preprocessing
    data = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        **shown,
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [config.in_chans, *config.image_size],
            "fixed_input_size": family is None or family.FIXED_SIZE,
            "interpolation": images.interpolation,
            "crop_pct": images.crop_pct,
            "crop_mode": images.crop_mode,
            "mean": list(images.mean),
            "std": list(images.std),
            "num_classes": config.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": classifier,
        },
    }
    added = {}
    if isinstance(config, VitConfig) and config.num_classes and not config.head_bias:  # timm's heads have one
        added["head.bias"] = np.zeros(config.num_classes, np.float32)
    theirs = Theirs(_filled(config, architecture), tensors, added=added)
    write_directory(path, TARGET, theirs, {CONFIG: data | WRITTEN_BY})


def _check_key_biases(weights: Weights) -> None:
    """Whether what takes the place of a bias that EVA and BEiT leave out is nothing."""
    for name in weights.shapes:
        if name.endswith("attn.k_bias") and np.any(np.asarray(weights.tensors[name], np.float64) != 0):
            raise CheckpointError(f"{weights.path}: {weights.called(name)}: got a bias of the key, expected zeros")


def _known(weights: Weights, beside: Iterable[str]) -> Known:
    """What a lone file's names say besides: DeiT III has no position for its class token, DINO a kernel of its own."""
    names = weights.shapes
    fields: dict[str, Any] = {}
    if any(re.search(r"dino_head|dino_loss|\bhead\.last_layer", name) for name in beside):
        fields["pos_embed_resize"] = "bicubic_offset"
    is_deit3 = "blocks.0.gamma_1" in names and "blocks.0.attn.qkv.bias" in names and "pos_embed" in names
    if not is_deit3:
        return Known(fields=fields)
    rope = "DeiT III, which has these names, has none; timm's vit_*_rope_ape_* have them"
    return Known(fields=fields, prefix=("none", "all"), without_rope=rope)


def _is_unused(name: str) -> bool:
    return any(re.fullmatch(rule.theirs, name) for rule in UNUSED)


def _filled(config: Config, architecture: str) -> list[FilledEntry]:
    return [
        FilledEntry(name, shape, (their_name(name, architecture),), "", (), None)
        for name, shape in parameter_shapes(config).items()
    ]
