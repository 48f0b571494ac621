"""`open_clip_config.json`: what its fields mean for a model here, and the other way.

Source: open_clip `model.py` (`CLIPVisionCfg`, `_build_vision_tower`), `timm_model.py`, `transform.py`
(`PreprocessCfg`), `push_to_hf_hub.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...configs import Preprocessing, VitConfig, close_match, get, replace
from ...configs.preprocessing import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, CropMode
from .open_clip_models import model_cfg
from .timm_arguments import norms_of

# Fields of `vision_cfg` with open_clip's defaults; what another value of it means is in `_native_config`.
DEFAULTS: dict[str, Any] = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
    "ls_init_value": None,
    "no_ln_pre": False,
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "act_kwargs": None,
    "norm_kwargs": None,
    "qk_norm": False,
    "scale_attn_inner": False,
    "scale_fc": False,
    "timm_model_name": None,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "timm_proj_bias": False,
}
# Fields that a model here can't have, with the value that doesn't ask for it.
_REFUSED: dict[str, Any] = {
    "attentional_pool": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn": False,
}
# Fields that change no output: training, other outputs, or what the tensors hold anyway.
_WITHOUT_EFFECT = (
    "patch_dropout",
    "output_tokens",
    "pos_embed_type",
    "block_type",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
)
_MODES: dict[str, CropMode] = {"shortest": "center", "squash": "squash", "longest": "border"}


def understood(document: Mapping[str, Any]) -> tuple[VitConfig, str]:
    """The config of an image tower, and the registered name of the model of timm that it is; empty for open_clip's own.

    Args:
        document: The values of the JSON document.

    Raises:
        ValueError: A field that isn't known or can't be expressed.
    """
    model = document["model_cfg"]
    given = dict(model["vision_cfg"])
    for field, value in _REFUSED.items():
        if given.pop(field, value) != value:
            raise ValueError(f"vision_cfg.{field}: no model here has it, expected {value!r}")
    for field in _WITHOUT_EFFECT:
        given.pop(field, None)
    if unknown := [field for field in given if field not in DEFAULTS]:
        raise ValueError(f"vision_cfg: unknown field {unknown[0]!r}{close_match(unknown[0], DEFAULTS)}")
    vision = DEFAULTS | given
    images = preprocessing(document.get("preprocess_cfg") or {})
    if vision["timm_model_name"]:
        name = vision["timm_model_name"].partition(".")[0]
        return _trunk_config(vision, name, model["embed_dim"], images), name
    return _native_config(vision, model["embed_dim"], bool(model.get("quick_gelu")), images), ""


def named(model: str) -> VitConfig | None:
    """The config of a model by open_clip's name for it, such as `ViT-B-32-quickgelu`; None if it isn't one.

    Preprocessing is open_clip's default, which belongs to no model but to weights.

    Raises:
        ValueError: `ViT-B/32` and its like, which is QuickGELU in OpenAI's CLIP and GELU in open_clip.
    """
    found = model_cfg(name := model.replace("/", "-").replace("@", "-").removesuffix("px"))
    if (
        found is not None
        and name != model
        and "quick_gelu" not in found
        and "timm_model_name" not in found["vision_cfg"]
    ):
        raise ValueError(f"model: got {model!r}; OpenAI's is called {name}-quickgelu, and open_clip's own {name}")
    return None if found is None else understood({"model_cfg": found})[0]


def _native_config(vision: Mapping[str, Any], out: int, quick_gelu: bool, images: Preprocessing) -> VitConfig:
    if not isinstance(vision["layers"], int):
        raise ValueError(f"vision_cfg.layers: got {vision['layers']}, a ResNet; expected the number of blocks of a ViT")
    if vision["pool_type"] not in ("tok", "avg"):
        raise ValueError(f"vision_cfg.pool_type: got {vision['pool_type']!r}, expected 'tok' or 'avg'")
    act, norm = dict(vision["act_kwargs"] or {}), dict(vision["norm_kwargs"] or {})
    approximate = act.pop("approximate", "none")
    eps = norm.pop("eps", 1e-5)
    if act or norm or approximate not in ("none", "tanh") or (quick_gelu and approximate != "none"):
        raise ValueError(f"vision_cfg: got act_kwargs {vision['act_kwargs']} and norm_kwargs {vision['norm_kwargs']}")
    after = bool(vision["final_ln_after_pool"])
    return replace(
        VitConfig.of(get("vit_base_patch32_clip_224")),
        image_size=_pair(vision["image_size"]),
        patch_size=_pair(vision["patch_size"]),
        # open_clip takes as many whole patches as there are.
        drop_partial_patches=any(
            i % p for i, p in zip(_pair(vision["image_size"]), _pair(vision["patch_size"]), strict=True)
        ),
        num_classes=out,
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["width"] // vision["head_width"],
        mlp_dim=int(vision["width"] * vision["mlp_ratio"]),
        act="quick_gelu" if quick_gelu else "gelu_tanh" if approximate == "tanh" else "gelu",
        norm_eps=eps,
        head_bias=False,
        qk_norm=bool(vision["qk_norm"]),
        attn_norm=bool(vision["scale_attn_inner"]),
        mlp_norm=bool(vision["scale_fc"]),
        pre_norm=not vision["no_ln_pre"],
        final_norm=not after,
        fc_norm=after,
        global_pool="token" if vision["pool_type"] == "tok" else "avg",
        layer_scale_init=vision["ls_init_value"],
        preprocessing=images,
    )


def _trunk_config(vision: Mapping[str, Any], architecture: str, out: int, images: Preprocessing) -> VitConfig:
    trunk = VitConfig.of(get(architecture))
    pool, proj = vision["timm_pool"], vision["timm_proj"]
    if pool != trunk.global_pool and not (pool == "" and proj == "linear"):
        if not {pool, trunk.global_pool} <= {"token", "avg"}:
            raise ValueError(f"vision_cfg.timm_pool: got {pool!r}, expected {trunk.global_pool!r} as in timm's model")
        # As an argument of timm's constructor it decides on norms, too; exchanged later, by a projection, it doesn't.
        norms = {} if proj == "linear" else norms_of({}, trunk, pool, architecture)
        trunk = replace(trunk, global_pool=pool, **norms)
    if _pair(vision["image_size"]) != trunk.image_size:
        raise ValueError(
            f"vision_cfg.image_size: got {vision['image_size']}, expected {trunk.image_size} of timm's model"
        )
    if proj == "none":
        return replace(trunk, num_classes=0, preprocessing=images)
    if not proj:
        return replace(trunk, num_classes=out, preprocessing=images)
    if proj != "linear":
        raise ValueError(f"vision_cfg.timm_proj: got {proj!r}, expected 'linear', 'none' or none")
    return replace(trunk, num_classes=out, head_bias=bool(vision["timm_proj_bias"]), preprocessing=images)


def preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    """What `preprocess_cfg` means; open_clip's defaults for what it leaves out.

    Raises:
        ValueError: A value that isn't known.
    """
    mode = settings.get("resize_mode", "shortest")
    if mode not in list(_MODES):  # it may be anything, even what can't be hashed
        raise ValueError(f"preprocess_cfg.resize_mode: got {mode!r}, expected one of {', '.join(_MODES)}")
    return Preprocessing(
        mean=_tuple(settings.get("mean", OPENAI_CLIP_MEAN)),
        std=_tuple(settings.get("std", OPENAI_CLIP_STD)),
        interpolation=settings.get("interpolation", "bicubic"),
        crop_pct=1.0,
        crop_mode=_MODES[mode],
        fill=settings.get("fill_color", 0) if mode == "longest" else None,
    )


def native_document(config: VitConfig) -> dict[str, Any]:
    """What open_clip's own ViT of these sizes is called there; it may be another model in what that ViT can't be."""
    vision: dict[str, Any] = {
        "image_size": _one_or_two(config.image_size),
        "layers": config.depth,
        "width": config.embed_dim,
        "head_width": config.head_dim,
        "mlp_ratio": _ratio(config),
        "patch_size": _one_or_two(config.patch_size),
        "ls_init_value": config.layer_scale_init,
        "no_ln_pre": not config.pre_norm,
        "final_ln_after_pool": config.fc_norm,
        "pool_type": "avg" if config.global_pool == "avg" else "tok",
        "act_kwargs": {"approximate": "tanh"} if config.act == "gelu_tanh" else None,
        "norm_kwargs": {"eps": config.norm_eps},
        "qk_norm": config.qk_norm,
        "scale_attn_inner": config.attn_norm,
        "scale_fc": config.mlp_norm,
    }
    # What is open_clip's default anyway needn't be said.
    vision = {field: value for field, value in vision.items() if value != DEFAULTS[field] and value != {"eps": 1e-5}}
    return _document(config, config.num_classes, vision)


def trunk_document(config: VitConfig, name: str) -> dict[str, Any]:
    """What a tower of timm's model of this name is called there."""
    inside = config.num_classes > 0 and config.head_bias
    vision: dict[str, Any] = {
        "image_size": _one_or_two(config.image_size),
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": config.global_pool,
        "timm_proj": None if inside else "linear" if config.num_classes else "none",
    }
    return _document(config, config.num_classes or config.embed_dim, vision)


def _document(config: VitConfig, out: int, vision: dict[str, Any]) -> dict[str, Any]:
    images = config.preprocessing
    model: dict[str, Any] = {"embed_dim": out, "vision_cfg": vision}
    if config.act == "quick_gelu" and "timm_model_name" not in vision:
        model["quick_gelu"] = True
    settings: dict[str, Any] = {
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "resize_mode": next(mode for mode, ours in _MODES.items() if ours == images.crop_mode),
    }
    if images.fill is not None:
        settings["fill_color"] = images.fill
    return {"model_cfg": model, "preprocess_cfg": settings}


def _ratio(config: VitConfig) -> float:
    """The ratio of which open_clip makes `mlp_dim`, rounding down."""
    ratio = config.mlp_dim / config.embed_dim
    return ratio if int(config.embed_dim * ratio) == config.mlp_dim else (config.mlp_dim + 0.5) / config.embed_dim


def _tuple(value: Any) -> Any:
    """A list as a tuple; what else may be there is for the config to refuse by name."""
    return tuple(value) if isinstance(value, list) else value


def _pair(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else _tuple(value)
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise ValueError(f"vision_cfg: got a size {value!r}, expected a whole number or two")
    return pair


def _one_or_two(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)
