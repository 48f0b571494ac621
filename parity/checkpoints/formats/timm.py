"""timm's format: the directory that its hub repositories hold, or one file of tensors.

Canonical names and layout are timm's own, so tensors pass through as they are, but for the LayerScale of its `eva` and
`beit` modules; what is translated is `config.json`. Source: timm `models/_hub.py` (`load_model_config_from_path`,
`save_for_hf`) and the constructors of its models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...configs import Config, get, name_of, names, replace
from ...configs.eva import EVA_AND_BEIT
from ..accounting import CheckpointError
from ..checkpoint import Checkpoint
from ..containers.document import find_json, read_json
from ..containers.files import WRITTEN_BY, Directory, is_by_us, write_directory
from ..containers.tensors import open_tensors
from ..shapes import parameter_shapes
from .native import CONFIG
from .translate import Ours, Pair, Theirs

# timm's constructor arguments whose values are ours under another name.
_ARGUMENTS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "in_chans": "in_chans",
    "num_classes": "num_classes",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "qkv_bias": "qkv_bias",
    "class_token": "class_token",
    "global_pool": "global_pool",
    "init_values": "layer_scale_init",
    "dynamic_img_size": "dynamic_image_size",
    "attn_drop_rate": "attn_drop_rate",
    "drop_path_rate": "drop_path_rate",
}
# The same, of VisionTransformer alone, and of Eva alone.
_VIT_ARGUMENTS = {
    "reg_tokens": "reg_tokens",
    "act_layer": "act",
    "final_norm": "final_norm",
    "fc_norm": "fc_norm",
    "qk_norm": "qk_norm",
    "scale_attn_norm": "attn_norm",
    "scale_mlp_norm": "mlp_norm",
    "pool_include_prefix": "pool_include_prefix",
}
_EVA_ARGUMENTS = {
    "num_reg_tokens": "reg_tokens",
    "use_post_transformer_norm": "final_norm",
    "use_fc_norm": "fc_norm",
}


def our_name(name: str) -> str:
    """The canonical name of one of timm's tensors."""
    return re.sub(r"(blocks\.\d+)\.gamma_([12])", r"\1.ls\2.gamma", name)


def their_name(name: str, architecture: str) -> str:
    """The inverse of `our_name`, for one of timm's architectures."""
    if architecture not in EVA_AND_BEIT:
        return name
    return re.sub(r"(blocks\.\d+)\.ls([12])\.gamma", r"\1.gamma_\2", name)


def is_timm(path: Path) -> bool:
    """Whether a directory says that it is one of timm's."""
    data = find_json(path / CONFIG)
    return "architecture" in data and "format" not in data


TARGET = Directory(documents=(CONFIG,), is_ours=lambda path: is_timm(path) and is_by_us(path / CONFIG))


def read(path: Path, *, model: str | None = None) -> Checkpoint:
    """Opens timm's directory, or a file of tensors of a model that is named.

    Raises:
        CheckpointError: Unknown architecture or argument, or tensors that don't fit; names the file and the field.
    """
    if path.is_file():
        if model is None:
            raise CheckpointError(f"{path}: a lone file doesn't say which model it is; name one, such as --model NAME")
        return _checkpoint(path, get(model), model)
    file = path / CONFIG
    data = read_json(file)
    try:
        architecture = str(model or data["architecture"]).partition(".")[0]
        config = _config(data, architecture)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: {error}") from None
    return _checkpoint(path, config, architecture)


def write(path: str | Path, config: Config, tensors: Mapping[str, np.ndarray], *, name: str = "", **_: Any) -> None:
    """Writes a directory that `timm.create_model("local-dir:...", pretrained=True)` loads, whole or not at all.

    Raises:
        CheckpointError: timm has no architecture and arguments for the config, or something else is in the way.
    """
    path = Path(path)
    architecture, arguments = _expressed(path, config, name)
    images = config.preprocessing
    data = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": _POOLS.get(config.global_pool, config.global_pool),
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [config.in_chans, *config.image_size],
            "fixed_input_size": True,
            "interpolation": images.interpolation,
            "crop_pct": images.crop_pct,
            "crop_mode": images.crop_mode,
            "mean": list(images.mean),
            "std": list(images.std),
            "num_classes": config.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if config.dist_token else "head",
        },
    }
    added = {}
    if config.num_classes and not config.head_bias:  # timm's heads have one
        added["head.bias"] = np.zeros(config.num_classes, np.float32)
    theirs = Theirs(_pairs(config, architecture), tensors, added=added)
    write_directory(path, TARGET, theirs, {CONFIG: data | WRITTEN_BY})


def architectures() -> list[str]:
    """Registered models that are timm's."""
    return [name for name in names() if not name.startswith("vit_test") and name != "vit_digits"]


# timm's word for no pooling.
_POOLS = {"none": ""}


def _checkpoint(path: Path, config: Config, architecture: str) -> Checkpoint:
    tensors = open_tensors(path)
    source: dict[str, Any] = {"format": "timm", "path": str(path)}
    if tensors.ignored:
        source["ignored"] = dict(tensors.ignored)
    return Checkpoint(path, config, architecture, source, Ours(_pairs(config, architecture), tensors, source=str(path)))


def _pairs(config: Config, architecture: str) -> list[Pair]:
    return [
        Pair(name, shape, (their_name(name, architecture),), "", (), None)
        for name, shape in parameter_shapes(config).items()
    ]


def _config(data: Mapping[str, Any], architecture: str) -> Config:
    """Our config of timm's `config.json`."""
    config = get(architecture)
    known = _known_arguments(architecture)
    fields: dict[str, Any] = {}
    for key, value in (data.get("model_args") or {}).items():
        if key == "mlp_ratio":
            continue
        if key == "no_embed_class":
            fields["pos_embed_prefix"] = "none" if value else "all"
        elif key in known:
            fields[known[key]] = tuple(value) if isinstance(value, list) else value
        else:
            expected = ", ".join([*known, "mlp_ratio", "no_embed_class"])
            raise ValueError(f"model_args.{key}: not supported, expected some of {expected}")
    pool = fields.get("global_pool")
    fields |= {} if pool is None else {"global_pool": "none" if pool == "" else pool}
    fields |= norms_of(
        data.get("model_args") or {}, config, fields.get("global_pool", config.global_pool), architecture
    )
    if (ratio := (data.get("model_args") or {}).get("mlp_ratio")) is not None:
        hidden = int(fields.get("embed_dim", config.embed_dim) * ratio)
        halved = config.mlp == "swiglu_packed" and architecture not in EVA_AND_BEIT
        fields["mlp_dim"] = hidden // 2 if halved else hidden
    pretrained = data.get("pretrained_cfg") or {}
    num_classes = data.get("num_classes", pretrained.get("num_classes"))
    if num_classes is not None:
        fields["num_classes"] = num_classes
    images = {
        key: pretrained[key]
        for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
        if pretrained.get(key) is not None
    }
    images = {key: tuple(value) if isinstance(value, list) else value for key, value in images.items()}
    fields["preprocessing"] = replace(config.preprocessing, **images)
    return replace(config, **fields)


def norms_of(arguments: Mapping[str, Any], config: Config, pool: str, architecture: str) -> dict[str, bool]:
    """Which norms a model has after its blocks, as timm's constructors decide it."""
    is_eva = architecture in EVA_AND_BEIT
    final, fc = ("use_post_transformer_norm", "use_fc_norm") if is_eva else ("final_norm", "fc_norm")
    usual = config.fc_norm == (config.global_pool == "avg")
    has_fc = arguments.get(fc)
    if has_fc is None:
        has_fc = pool == "avg" if pool != config.global_pool and usual else config.fc_norm
    if is_eva:
        has_final = arguments.get(final)
        changed = pool != config.global_pool or arguments.get(fc) is not None
        default = not has_fc if changed else config.final_norm
        return {"fc_norm": has_fc, "final_norm": default if has_final is None else has_final}
    has_any = arguments.get(final, config.final_norm or config.fc_norm)
    return {"fc_norm": has_any and has_fc, "final_norm": has_any and not has_fc}


def _known_arguments(architecture: str) -> dict[str, str]:
    return _ARGUMENTS | (_EVA_ARGUMENTS if architecture in EVA_AND_BEIT else _VIT_ARGUMENTS)


def _expressed(path: Path, config: Config, name: str) -> tuple[str, dict[str, Any]]:
    """An architecture of timm's and the arguments that make it this config: its own, or the one that needs fewest."""
    candidates = [name] if name in architectures() else []
    candidates += [name_of(config)] if name_of(config) in architectures() else []
    problems: dict[str, list[str]] = {}
    found: list[tuple[str, dict[str, Any]]] = []
    for architecture in [*candidates, *architectures()]:
        arguments, problem = _arguments(config, architecture)
        if not problem and architecture in candidates:
            return architecture, arguments
        if problem:
            problems[architecture] = problem
        else:
            found.append((architecture, arguments))
    if found:
        return min(found, key=lambda item: len(item[1]))
    nearest = min(problems, key=lambda architecture: len(problems[architecture]))
    raise CheckpointError(
        f"{path}: timm has no architecture for this config; the nearest, {nearest}, differs in what its arguments "
        f"can't change: {', '.join(problems[nearest])} (--numerics timm takes timm's own numerics)"
    )


def _arguments(config: Config, architecture: str) -> tuple[dict[str, Any], list[str]]:
    """Arguments of timm that turn an architecture into a config, and the fields that none can change."""
    registered = get(architecture)
    known = _known_arguments(architecture)
    neutral = ("preprocessing", "head_bias", "pos_embed_resize", "patch_resize", "rel_pos_resize")
    differing = [
        field for field in vars(config) if field not in neutral and getattr(config, field) != getattr(registered, field)
    ]
    arguments: dict[str, Any] = {}
    problems = []
    halved = config.mlp == "swiglu_packed" and architecture not in EVA_AND_BEIT
    for field in differing:
        theirs = next((key for key, ours in known.items() if ours == field), None)
        value = getattr(config, field)
        if theirs is not None:
            arguments[theirs] = _POOLS.get(value, value) if field == "global_pool" else value
        elif field == "pos_embed_prefix" and value != "class":
            arguments["no_embed_class"] = value == "none"
        elif field != "mlp_dim":
            problems.append(f"{field} is {value!r}, not {getattr(registered, field)!r}")
    if {"mlp_dim", "embed_dim"} & set(differing):
        # Half a unit more, so that timm's int(dim * ratio) can't round down.
        arguments["mlp_ratio"] = (config.mlp_dim * (2 if halved else 1) + 0.5) / config.embed_dim
    if {"global_pool", "final_norm", "fc_norm"} & set(differing):
        if architecture in EVA_AND_BEIT:
            arguments |= {"use_post_transformer_norm": config.final_norm, "use_fc_norm": config.fc_norm}
        else:
            arguments |= {"final_norm": config.final_norm or config.fc_norm, "fc_norm": config.fc_norm}
            problems += ["both fc_norm and final_norm are True"] if config.final_norm and config.fc_norm else []
    arguments.pop("num_classes", None)
    return arguments, problems
