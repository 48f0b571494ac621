"""The `config.json` that names and shapes of transformers' tensors imply, for a file that lies alone.

The class follows from the names: what is in the blocks says the family, what is beside the encoder says what it is for.

    layer_scale1 and register_tokens                        Dinov2WithRegisters
    ... and classifier.weight                               Dinov2WithRegistersForImageClassification

Sizes follow from shapes. What is left are the class's own defaults, each of which is assumed, and so listed, unless the
user says it or names a model; CLIP's activation has no usual value, and is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....configs import Config, VitConfig, replace
from ...accounting import CheckpointError
from ...assumed import Given, say
from ...shapes import Shape
from ..foreign import depth_of, shape_of
from ..settled import grid_of, heads_of
from ..translate import canonical_shapes
from ..weights import Weights
from .architecture import Architecture, Json, Setting, number_of_labels
from .dino import ratio_of
from .image_processor import from_huggingface
from .registry import ARCHITECTURES

_LAYERS = r"(?:model\.|encoder\.)?layers?\.(\d+)\."
_LAYER = r"(?:model\.|encoder\.)?layers?\.0\."
_QUERY, _KEY, _VALUE, _OUTPUT = (
    rf"{_LAYER}(?:attention\.attention\.{long}|(?:self_attn|attention)\.{short})"
    for long, short in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "(?:o|out)_proj"))
)
_TABLE = r".*relative_position_bias_table"
_GATE = rf"{_LAYER}mlp\.(?:gate_proj|weights_in)\.weight"
_HIDDEN = rf"{_LAYER}(?:intermediate\.dense|mlp\.(?:fc1|up_proj))\.weight"
_HIDDEN_OUT = rf"{_LAYER}mlp\.(?:weights_out|down_proj)\.weight"
_POSITIONS = r"embeddings\.position_embeddings?(?:\.weight)?"
_PATCHES = r"embeddings\.patch_embeddings?(?:\.projection)?\.weight"
# By what only they have, the first that fits.
_HIERARCHIES = {
    r"encoder\.layers\.0\.patch_embedding\.proj\.weight": "PvtV2",
    r"(?:encoder\.patch_embeddings\.0|stages\.0\.patch_embeddings)\.proj\.weight": "Segformer",
    r"encoder\.layers\.0\.blocks\.0\..*\.logit_scale": "Swinv2",
    r"encoder\.layers\.0\.blocks\.0\..*": "Swin",
    r"embedder\.embedder\.convolution\.weight": "ResNet",
    r"encoder\.layer\.\d\.transformer\.layer\.0\.ffn\.conv1\.convolution\.weight": "MobileViTV2",
    r"conv_stem\.convolution\.weight": "MobileViT",
}
_TOWERS = ("CLIP", "Siglip", "Siglip2")


@dataclass(frozen=True)
class _File:
    """A file's shapes by names without the encoder's prefix."""

    path: Path
    shapes: Mapping[str, Shape]
    base: str

    def has(self, pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in self.shapes)

    def size(self, pattern: str, axes: int = 2) -> Shape:
        name = next((name for name in self.shapes if re.fullmatch(pattern, name)), pattern.replace("\\", ""))
        return shape_of(self.shapes, name, axes, path=self.path)


def implied(weights: Weights, given: Given, *, path: Path) -> dict[str, Any]:
    """The object of the `config.json` that isn't there.

    Args:
        weights: The weights of a class of transformers, by PyTorch's names.
        given: What the user says; collects what is assumed.
        path: What errors call the file.

    Raises:
        CheckpointError: Names of no class that is known, shapes of no model, or something that has to be asked for.
    """
    shapes, file = weights.shapes, _file(weights, path)
    family = _family(file)
    name = family + _purpose(file, family)
    kind = _architecture(name, file)
    if kind.infer is not None:
        return _inferred(kind, weights, given, path)
    tower = _sizes(file, family) | _options(file, family, name)
    width, channels = tower["hidden_size"], tower["num_channels"]
    tower |= _positions(file, family, tower, given)
    table = file.size(_TABLE)[1] if file.has(_TABLE) else None
    tower["num_attention_heads"] = heads_of(given, width, path=path, shown=table)
    tower |= {
        setting.theirs: _default(setting, file, kind, given) for setting in kind.settings if setting.ours in _CODE
    }
    if family == "DINOv3ViT":
        tower["rope_theta"] = _temperature(given)
    data: dict[str, Any] = {"architectures": [name], "model_type": kind.model_type, "num_channels": channels}
    if kind.labels:
        data["num_labels"] = _classes(kind, shapes)
    if name == "CLIPModel":
        data["projection_dim"] = file.size(r"visual_projection\.weight")[0]
    return data | ({"vision_config": tower} if kind.nested else tower)


def _inferred(kind: Architecture, weights: Weights, given: Given, path: Path) -> dict[str, Any]:
    """The same of a family whose sizes its canonical names show."""
    assert kind.infer is not None
    bare = {name.removeprefix(kind.base): shape for name, shape in weights.shapes.items()}
    found = [canonical_shapes((*table, *kind.read_head), bare) for table in (kind.table, kind.memory)]
    usual = (from_huggingface({}, model_type=kind.model_type).preprocessing, "")  # of which the reader speaks
    config = kind.infer(max(found, key=len), given, path=path, known={**kind.fixed, **kind.code}, usual=lambda _: usual)
    return kind.data(config) | {"num_labels": config.num_classes, "num_channels": config.in_chans}


def with_class(data: Json, weights: Weights) -> dict[str, Any]:
    """A `config.json` that lists no class, of which it has the type alone, with the one that names imply."""
    file = _file(weights, weights.path)
    purpose = _purpose(file, _family(file))
    if data.get("architectures") or purpose.endswith("Model"):
        return dict(data)
    kinds = [kind for kind in ARCHITECTURES if kind.model_type == data.get("model_type")]
    names = [kind.name for kind in kinds if kind.name.endswith(purpose)]
    return dict(data) | {"architectures": names[:1]}


def with_classes(data: Json, architecture: Architecture, shapes: Mapping[str, Shape], given: Given) -> dict[str, Any]:
    """A `config.json` with as many classes as the classifier in the file has.

    Raises:
        ValueError: It lists another number, and the user doesn't say which is right.
    """
    if not architecture.labels:
        return dict(data)
    listed, found = number_of_labels(data), _classes(architecture, shapes)
    said = given.take("num_classes")
    if said not in (None, found):
        raise ValueError(f"num_classes: got {said}, but the classifier in the file has {found}")
    if listed in (None, found):
        return dict(data) | ({"num_labels": found} if listed is None else {})
    if said is None:
        head = f"the classifier in the file has {found}" if found else "the file has no classifier"
        fields = say("num_classes", value=str(found))
        raise ValueError(f"id2label: got {listed} classes, but {head}; if the file is right, {fields}")
    return {name: value for name, value in data.items() if name != "id2label"} | {"num_labels": found}


def with_asked(config: Config, architecture: Architecture, names: Collection[str], given: Given) -> Config:
    """A config with what a file can have besides its class, and the user asks for.

    Raises:
        ValueError: A pooler beside a classifier, and the user doesn't say whether it is between them.
    """
    if not isinstance(config, VitConfig):
        return config
    config = replace(config, mask_token=given.take("mask_token", config.mask_token))
    pooler = [name for name in names if name.endswith("pooler.dense.weight")]
    if not pooler or not architecture.labels:
        return config
    width = given.take("pre_logits_dim")
    if width is None:
        prefix = pooler[0].removesuffix("dense.weight")
        raise ValueError(
            f"{pooler[0]}: a pooler beside a classifier, which no class of transformers has: if the classifier takes "
            f"the class token, leave it out with --ignore '*{prefix}*'; if it takes what the pooler makes, "
            f"{say('pre_logits_dim', value='N')}, the pooler's width"
        )
    return replace(config, pre_logits_dim=width)


def settled_pooling(config: Config, architecture: Architecture, weights: Weights, given: Given) -> Config:
    """A lone file's config, with its pooling settled where the names don't say it.

    Raises:
        ValueError: A pooling that makes no model.
    """
    if not isinstance(config, VitConfig):
        return config
    head = weights.called("classifier.weight")
    if config.num_classes and "classifier.weight" in weights.tensors and "classifier." not in head:
        why = f"that of {architecture.name}; {head} is the head of another class around it"
    elif architecture.labels and not config.num_classes:
        why = f"that of {architecture.name}, for there is neither classifier nor pooler"
    elif architecture.name == "BeitModel" and config.final_norm:
        why = "BeitModel's; Data2VecVisionModel, which has the same names, gives all tokens: none"
    else:
        return config
    return replace(config, global_pool=given.settle("global_pool", usual=config.global_pool, why=why))


def _file(weights: Weights, path: Path) -> _File:
    shapes = weights.shapes
    anchor = next((name for name in shapes if re.fullmatch(rf"(?:\w+\.)?{_PATCHES}", name)), "embeddings.")
    base = anchor[: anchor.index("embeddings.")]
    return _File(path, {name.removeprefix(base): shape for name, shape in shapes.items()}, base)


def _classes(architecture: Architecture, shapes: Mapping[str, Shape]) -> int:
    """Rows of the head; none without one."""
    heads = architecture.family.heads
    entry = next(entry for entry in architecture.read_head if entry.ours.removesuffix(".fc") in heads)
    shape = shapes.get(f"{entry.theirs}.weight", (0,))
    return shape[0] if shape else 0


def _family(file: _File) -> str:
    """What all classes of one kind of encoder begin with."""
    for mark, family in _HIERARCHIES.items():
        if file.has(rf"(?:\w+\.)?{mark}"):
            return family
    named = {"deit.": "DeiT", "beit.": "Beit", "data2vec_vision.": "Data2VecVision", "ijepa.": "IJepa"}
    keyless = file.has(rf"{_QUERY}\.bias") and not file.has(rf"{_KEY}\.bias")
    if file.has(r"embeddings\.patch_embeddings\.weight"):
        return "DINOv3ViT"
    if file.has(r"embeddings\.patch_embedding\.weight"):
        flat = len(next(shape for name, shape in file.shapes.items() if re.fullmatch(_PATCHES, name))) == 2
        return "CLIP" if file.has(r"pre_layrnorm\.weight") else "Siglip2" if flat else "Siglip"
    if file.has(r".*layer_scale1\.lambda1"):
        return "Dinov2WithRegisters" if file.has(r"embeddings\.register_tokens") else "Dinov2"
    if file.base in named:
        return named[file.base]
    if file.has(r".*lambda_1") or file.has(_TABLE) or keyless:
        # Its own class can be without a pooler; BEiT's then has a norm at the end.
        plain = not file.has(r"(?:pooler\.)?layernorm\.weight")
        return "Data2VecVision" if plain else "Beit"
    if file.has(r"embeddings\.distillation_token"):
        return "DeiT"
    if file.has(r"decoder\.decoder_.*"):
        return "ViTMAE"
    return "ViT" if file.has(r"embeddings\.cls_token") else "IJepa"


def _purpose(file: _File, family: str) -> str:
    """What a class's name has after its family."""
    if file.has(r"classifier\.weight"):
        return "ForImageClassification"
    if family in _TOWERS:
        if file.has(r"text_model\..*"):
            return "Model"
        return "VisionModelWithProjection" if file.has(r"visual_projection\.weight") else "VisionModel"
    for beside, purpose in (
        (r"cls_classifier\.weight", "ForImageClassificationWithTeacher"),
        (r"(?:decode|segmentation)_head\..*", "ForSemanticSegmentation"),
        (r"decoder\.decoder_.*", "ForPreTraining"),
        (r"decoder\.0\.weight|lm_head\.weight", "ForMaskedImageModeling"),
    ):
        if file.has(beside):
            return purpose
    # A prefix is that of a class around the encoder, whose classifier then has no classes.
    return "ForImageClassification" if file.base and not file.has(r"pooler\.dense\..*") else "Model"


def _architecture(name: str, file: _File) -> Architecture:
    gated = (None, file.has(_GATE))
    kinds = [kind for kind in ARCHITECTURES if kind.name == name and kind.expected.get("use_swiglu_ffn") in gated]
    if not kinds:
        raise CheckpointError(
            f"{file.path}: the names are those of {name}, which is no class that is known; leave out what is beside "
            "the encoder with --ignore PATTERN (in Python ignore=)"
        )
    return kinds[0]


def _sizes(file: _File, family: str) -> dict[str, Any]:
    width, *patch = file.size(_PATCHES, 2 if family == "Siglip2" else 4)
    channels, *sides = patch if len(patch) == 3 else _flat_patch(patch[0])
    gated = file.has(_GATE)
    hidden = file.size(_HIDDEN_OUT)[1] if gated else file.size(_HIDDEN)[0]
    found: dict[str, Any] = dict(
        hidden_size=width, num_hidden_layers=depth_of(file.shapes, _LAYERS), num_channels=channels
    )
    found["patch_size"] = sides[0] if len(set(sides)) == 1 else sides
    if not family.startswith("Dinov2"):
        return found | dict(intermediate_size=hidden)
    return found | dict(mlp_ratio=ratio_of(width, hidden, gated=gated), use_swiglu_ffn=gated)


def _flat_patch(pixels: int) -> tuple[int, int, int]:
    """Channels and sides of a square patch whose pixels lie in one row: colours, or else grey."""
    channels = 3 if pixels % 3 == 0 and math.isqrt(pixels // 3) ** 2 * 3 == pixels else 1
    side = math.isqrt(pixels // channels)
    return channels, side, side


def _options(file: _File, family: str, name: str) -> dict[str, Any]:
    """What is there in a model of the family, or isn't."""
    query, key, value = (file.has(rf"{part}\.bias") for part in (_QUERY, _KEY, _VALUE))
    if family == "DINOv3ViT":
        return dict(
            query_bias=query,
            key_bias=key,
            value_bias=value,
            proj_bias=file.has(rf"{_OUTPUT}\.bias"),
            mlp_bias=file.has(rf"{_LAYER}mlp\.down_proj\.bias"),
            use_gated_mlp=file.has(_GATE),
            num_register_tokens=_registers(file),
        )
    if family in ("Beit", "Data2VecVision"):
        table = file.has(rf"{_LAYER}{_TABLE}")
        masked = name.endswith("MaskedImageModeling")
        return dict(
            layer_scale_init_value=0.1 if file.has(r".*lambda_1") else 0.0,
            use_absolute_position_embeddings=file.has(_POSITIONS),
            use_relative_position_bias=table,
            use_shared_relative_position_bias=file.has(_TABLE) and not table,
            use_mean_pooling=masked or not file.has(r"layernorm\.weight"),
        )
    if family in _TOWERS:
        found: dict[str, Any] = dict(vision_use_head=file.has(r"head\.probe"))
        if name.endswith("WithProjection"):
            found["projection_dim"] = file.size(r"visual_projection\.weight")[0]
        return found
    pooler = (
        dict(pooler_output_size=file.size(r"pooler\.dense\.weight")[0]) if file.has(r"pooler\.dense\.weight") else {}
    )
    registers = dict(num_register_tokens=_registers(file)) if family.endswith("Registers") else {}
    return dict(qkv_bias=query) | pooler | registers


def _registers(file: _File) -> int:
    # An empty tensor stands for none.
    return next((shape[1] for name, shape in file.shapes.items() if name == "embeddings.register_tokens"), 0)


def _positions(file: _File, family: str, tower: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """The image size, from as many positions as there are."""
    side = tower["patch_size"]
    patch_size = (side, side) if isinstance(side, int) else (side[0], side[1])
    if family == "Siglip2":
        patches = file.size(_POSITIONS)[0]
        side = math.isqrt(patches) * patch_size[0]
        given.settle("image_size", shown=(side, side), path=file.path)
        return dict(num_patches=patches)
    if file.has(_POSITIONS):
        rows = file.size(_POSITIONS, 2 if family in _TOWERS else 3)[-2]
        tokens = sum(file.has(name) for name in (r"embeddings\.cls_token", r"embeddings\.class_embedding"))
        tokens += file.has(r"embeddings\.distillation_token")
        grid = grid_of(given, rows, patch_size, {"class": tokens}, path=file.path)
        return dict(image_size=list(grid["image_size"]))
    if file.has(_TABLE):
        rows = file.size(_TABLE)[0]
        side = (math.isqrt(max(rows - 3, 1)) + 1) // 2
        if (2 * side - 1) ** 2 + 3 != rows:
            raise CheckpointError(f"{file.path}: got {rows} relative positions, expected those of a square")
        size, why = (side * patch_size[0], side * patch_size[1]), f"from {rows} relative positions, a square"
        if given.like is None or given.like.image_size != size:
            return dict(image_size=list(given.assume("image_size", size, why)))
        return dict(image_size=list(given.take("image_size", size)))
    why = "nothing in the model depends on it, and 224 is usual"
    return dict(image_size=list(given.settle("image_size", usual=(224, 224), why=why)))


# Fields that the class's code has, while tensors show all others.
_CODE = ("act", "norm_eps")


def _default(setting: Setting, file: _File, kind: Architecture, given: Given) -> Any:
    """A field that no tensor shows, as `config.json` would have it."""
    usual = setting.read({})
    why = f"the default of {kind.name}"
    if setting.ours == "norm_eps" and kind.model_type == "vit":
        why = f"{why}; ViTMSN, which has the same names, has 1e-06"
    if setting.ours == "act" and kind.name.startswith("CLIP") and not given.says("act"):
        raise CheckpointError(
            f"{file.path}: OpenAI's CLIP has QuickGELU, most others have GELU, which the tensors don't show; "
            f"{say('act', 'gelu', value='quick_gelu')}, or name the model with --model NAME"
        )
    if setting.ours == "act" and kind.model_type == "dinov3_vit" and file.has(_GATE):
        usual, why = "silu", "that of DINOv3's gated MLPs"
    value = given.settle(setting.ours, usual=usual, why=why, path=file.path)
    names = setting.values or {}
    return next((theirs for theirs, ours in names.items() if ours == value), value)


def _temperature(given: Given) -> float:
    if given.like is not None and given.like.rope is not None and "rope.temperature" not in given.fields:
        return given.like.rope.temperature
    return given.assume("rope.temperature", 100.0, "that of all published DINOv3 models")
