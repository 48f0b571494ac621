"""timm's constructor arguments, `model_args` in its `config.json`: to a config and back.

Source: the constructors of timm's `VisionTransformer`, `VisionTransformerDistilled`, `Eva` and `Beit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...configs import Config, Preprocessing, Rope, VitConfig, close_match, get, name_of, replace
from ...configs.eva import EVA_AND_BEIT
from ..accounting import CheckpointError
from .settled import for_channels

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
    "qk_norm": "qk_norm",
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
    "scale_attn_norm": "attn_norm",
    "scale_mlp_norm": "mlp_norm",
    "pool_include_prefix": "pool_include_prefix",
}
_EVA_ARGUMENTS = {
    "qkv_fused": "qkv_fused",
    "scale_attn_inner": "attn_norm",
    "scale_mlp": "mlp_norm",
    "attn_only_layer_scale": "attn_only_layer_scale",
    "attn_pool_num_heads": "attn_pool_heads",
    "num_reg_tokens": "reg_tokens",
    "use_post_transformer_norm": "final_norm",
    "use_fc_norm": "fc_norm",
}
# What changes no output: initial values, training, and what PyTorch runs on.
_WITHOUT_EFFECT = (
    *("weight_init", "fix_init", "head_init_scale", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"),
    *("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "dynamic_img_pad", "device", "dtype"),
)
# Several of timm's words for one activation.
_ACTIVATIONS = {"quickgelu": "quick_gelu", "swish": "silu", "gelutanh": "gelu_tanh", "gelu_erf": "gelu"}
# timm's word for no pooling.
POOLS = {"none": ""}


def architectures() -> list[str]:
    """Registered models that are timm's."""
    return [name for name in sorted(VitConfig.registered) if not name.startswith("vit_test") and name != "vit_digits"]


def config_of(data: Mapping[str, Any], architecture: str, tensors: Mapping[str, Any]) -> VitConfig:
    """Our config of timm's `config.json`.

    Args:
        data: Its object.
        architecture: A name of timm's.
        tensors: The tensors, whose names say where norms are if the document has another pooling than the arguments.

    Raises:
        ValueError: An architecture or an argument that isn't known, or a value that can't be had here.
    """
    config = VitConfig.of(get(architecture))
    arguments = dict(data.get("model_args") or {})
    fields = _fields(arguments, config, architecture)
    if "global_pool" in fields:
        fields |= norms_of(arguments, config, fields["global_pool"], architecture)
    elif (pool := data.get("global_pool", config.global_pool)) != config.global_pool and pool in ("token", "avg"):
        # Older versions wrote what the model had, and not the argument that it came from.
        fields |= {"global_pool": pool, "fc_norm": "fc_norm.weight" in tensors, "final_norm": "norm.weight" in tensors}
    else:
        fields |= norms_of(arguments, config, config.global_pool, architecture)
    num_classes = data.get("num_classes", (data.get("pretrained_cfg") or {}).get("num_classes"))
    if num_classes is not None:
        fields["num_classes"] = num_classes
    fields["preprocessing"] = images_of(data, config, fields.get("in_chans", config.in_chans))
    return with_whole_patches(config, fields)


def images_of(data: Mapping[str, Any], config: Config, in_chans: int) -> Preprocessing:
    """The preprocessing that timm's `config.json` says; of the rest, a model's own."""
    pretrained = data.get("pretrained_cfg") or {}
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    images = {key: pretrained[key] for key in keys if pretrained.get(key) is not None}
    images = {key: tuple(value) if isinstance(value, list) else value for key, value in images.items()}
    return for_channels(replace(config.preprocessing, **images), in_chans)


def with_whole_patches(config: VitConfig, fields: Mapping[str, Any]) -> VitConfig:
    """A config with fields replaced that drops partial patches if its image size has any."""
    sizes = [fields.get(name, getattr(config, name)) for name in ("image_size", "patch_size")]
    image, patch = ((size, size) if isinstance(size, int) else size for size in sizes)
    partial = any(side % part for side, part in zip(image, patch, strict=True))
    return replace(config, **{"drop_partial_patches": partial, **fields})


def _fields(arguments: Mapping[str, Any], config: VitConfig, architecture: str) -> dict[str, Any]:
    """The fields that the arguments change."""
    known = _known_arguments(architecture)
    special = _EVA_SPECIAL if architecture in EVA_AND_BEIT else _VIT_SPECIAL
    fields: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in _WITHOUT_EFFECT or key in ("mlp_ratio", "swiglu_align_to"):
            continue
        if key in special:
            fields |= special[key](value)
        elif key in known:
            fields[known[key]] = tuple(value) if isinstance(value, list) else value
        elif not key.startswith("rope_") and key not in _ROPE:
            expected = ", ".join([*known, *special, "mlp_ratio", *_WITHOUT_EFFECT])
            raise ValueError(f"model_args.{key}: not supported{close_match(key, known)}; expected some of {expected}")
    if fields.get("global_pool") == "":
        fields["global_pool"] = "none"
    if isinstance(act := fields.get("act"), str):
        fields["act"] = _ACTIVATIONS.get(act, act)
    fields |= _rope(arguments, config)
    dim, heads = fields.get("embed_dim", config.embed_dim), fields.get("num_heads", config.num_heads)
    if isinstance(groups := arguments.get("num_kv_heads"), int) or isinstance(groups, list):
        depth = fields.get("depth", config.depth)
        each = (
            (groups,) * depth
            if isinstance(groups, int)
            else tuple(heads if group is None else group for group in groups)
        )
        fields["num_kv_heads"] = None if set(each) == {heads} else each
    return fields | _mlp(arguments, config, dim, architecture)


def _mlp(arguments: Mapping[str, Any], config: VitConfig, dim: int, architecture: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if {"swiglu_mlp", "scale_mlp", "swiglu_align_to"} & arguments.keys() and architecture in EVA_AND_BEIT:
        gated = arguments.get("swiglu_mlp", config.mlp != "mlp")
        aligned = arguments.get("swiglu_align_to", config.mlp == "swiglu" and not config.mlp_norm)
        split = arguments.get("scale_mlp", config.mlp_norm) or aligned
        found = dict(mlp="swiglu" if split else "swiglu_packed", act="silu") if gated else dict(mlp="mlp", act="gelu")
    if (ratio := arguments.get("mlp_ratio")) is not None or "embed_dim" in arguments:
        hidden = int(dim * ratio) if ratio is not None else round(dim * config.mlp_dim / config.embed_dim)
        halved = (
            found.get("mlp", config.mlp) == "swiglu_packed" and architecture not in EVA_AND_BEIT and ratio is not None
        )
        found["mlp_dim"] = hidden // 2 if halved else hidden
        if (unit := arguments.get("swiglu_align_to")) and found.get("mlp", config.mlp) == "swiglu":
            found["mlp_dim"] += -found["mlp_dim"] % unit
    if arguments.get("attn_pool_mlp_ratio") is not None:
        found["attn_pool_mlp_dim"] = int(dim * arguments["attn_pool_mlp_ratio"])
    return found


_ROPE = ("use_rot_pos_emb", "ref_feat_shape")
_ROPE_KINDS = {"cat": "axial", "mixed": "mixed", "dinov3": "centered"}
_ROPE_FIELDS = {
    "rope_temperature": "temperature",
    "rope_grid_offset": "offset",
    "rope_grid_indexing": "indexing",
    "rope_rotate_half": "rotate_half",
}


def _rope(arguments: Mapping[str, Any], config: VitConfig) -> dict[str, Any]:
    """Rotary positions, which several arguments make."""
    given = {
        key: value
        for key, value in arguments.items()
        if (key.startswith("rope_") or key in _ROPE) and key not in _WITHOUT_EFFECT and value is not None
    }
    if not given:
        return {}
    if not given.pop("use_rot_pos_emb", config.rope is not None):
        return {"rope": None}
    rope = config.rope or Rope()
    if (kind := given.pop("rope_type", None)) is not None:
        if kind not in _ROPE_KINDS:
            raise ValueError(f"model_args.rope_type: got {kind!r}, expected one of {', '.join(_ROPE_KINDS)}")
        rope = replace(rope, kind=_ROPE_KINDS[kind])
    if (grid := given.pop("ref_feat_shape", None)) is not None:
        rope = replace(rope, reference_grid=(grid, grid) if isinstance(grid, int) else tuple(grid))
    if unknown := [key for key in given if key not in _ROPE_FIELDS]:
        raise ValueError(f"model_args.{unknown[0]}: not supported, expected some of {', '.join(_ROPE_FIELDS)}")
    return {"rope": replace(rope, **{_ROPE_FIELDS[key]: value for key, value in given.items()})}


def _one_of(values: Mapping[Any, dict[str, Any]], key: str) -> Callable[[Any], dict[str, Any]]:
    """An argument of a few values, each of which means some fields."""

    def fields(value: Any) -> dict[str, Any]:
        if value not in values:
            raise ValueError(f"model_args.{key}: got {value!r}, expected one of {', '.join(map(repr, values))}")
        return values[value]

    return fields


def _switch(key: str, on: dict[str, Any], off: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    return _one_of({True: on, False: off}, key)


# Arguments that mean several fields, or have words of their own.
_COMMON_SPECIAL = {
    "no_embed_class": _switch("no_embed_class", {"pos_embed_prefix": "none"}, {"pos_embed_prefix": "all"}),
    "norm_layer": _one_of({None: {}, "layernorm": {"norm": "layernorm"}, "rmsnorm": {"norm": "rmsnorm"}}, "norm_layer"),
}
_PRE_NORM = _switch("pre_norm", {"pre_norm": True, "patch_bias": False}, {"pre_norm": False, "patch_bias": True})
_POSITIONS = {"learn": {"pos_embed": "learned"}, "none": {"pos_embed": "none"}, "": {"pos_embed": "none"}}
_EMBED_NORMS = {None: {}, "layernorm": {"embed_norm": True}, "rmsnorm": {"embed_norm": True}}
# Of VisionTransformer.
_VIT_SPECIAL = _COMMON_SPECIAL | {
    "pre_norm": _PRE_NORM,
    "proj_bias": _switch("proj_bias", {"proj_bias": True, "mlp_bias": True}, {"proj_bias": False, "mlp_bias": False}),
    "pos_embed": _one_of(_POSITIONS, "pos_embed"),
    "embed_norm_layer": _one_of(_EMBED_NORMS, "embed_norm_layer"),
}
# Of Eva and Beit.
_EVA_SPECIAL = _COMMON_SPECIAL | {
    "use_pre_transformer_norm": _PRE_NORM,
    "use_abs_pos_emb": _switch("use_abs_pos_emb", {"pos_embed": "learned"}, {"pos_embed": "none"}),
    "use_rel_pos_bias": _switch("use_rel_pos_bias", {"rel_pos_bias": "block"}, {}),
    "use_shared_rel_pos_bias": _switch("use_shared_rel_pos_bias", {"rel_pos_bias": "shared"}, {}),
    "use_post_norm": _switch("use_post_norm", {"block": "res_post"}, {"block": "pre_norm"}),
    "attn_type": _one_of({"eva": {"k_bias": False}, "rope": {"k_bias": True}}, "attn_type"),
    "num_kv_heads": lambda _: {},
    "swiglu_mlp": lambda _: {},
    "attn_pool_mlp_ratio": lambda _: {},
}


def norms_of(arguments: Mapping[str, Any], config: VitConfig, pool: str, architecture: str) -> dict[str, bool]:
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


def expressed(path: Path, config: VitConfig, name: str) -> tuple[str, dict[str, Any]]:
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


# Fields that one argument of VisionTransformer decides, and its value where they go together.
_TOGETHER_FIELDS = {"pre_norm": ("pre_norm", "patch_bias"), "proj_bias": ("proj_bias", "mlp_bias")}
_TOGETHER: dict[str, Callable[[VitConfig], bool | None]] = {
    "pre_norm": lambda config: config.pre_norm if config.pre_norm != config.patch_bias else None,
    "proj_bias": lambda config: config.proj_bias if config.proj_bias == config.mlp_bias else None,
}


def _arguments(config: VitConfig, architecture: str) -> tuple[dict[str, Any], list[str]]:
    """Arguments of timm that turn an architecture into a config, and the fields that none can change."""
    registered = VitConfig.of(get(architecture))
    known = _known_arguments(architecture)
    neutral = ("preprocessing", "head_bias", "pos_embed_resize", "patch_resize", "rel_pos_resize")
    differing = [
        field for field in vars(config) if field not in neutral and getattr(config, field) != getattr(registered, field)
    ]
    arguments: dict[str, Any] = {}
    problems = []
    halved = config.mlp == "swiglu_packed" and architecture not in EVA_AND_BEIT
    for argument, fields in _TOGETHER.items() if architecture not in EVA_AND_BEIT else ():
        if fields(config) is not None and fields(config) != fields(registered):
            arguments[argument] = fields(config)
            differing = [field for field in differing if field not in _TOGETHER_FIELDS[argument]]
    for field in differing:
        theirs = next((key for key, ours in known.items() if ours == field), None)
        value = getattr(config, field)
        if theirs is not None:
            arguments[theirs] = POOLS.get(value, value) if field == "global_pool" else value
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
