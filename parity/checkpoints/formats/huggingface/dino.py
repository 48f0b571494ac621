"""DINOv2, with and without registers, and DINOv3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....configs import Rope, VitConfig
from ...shapes import Shape
from ..translate import Entry, Unused
from .architecture import Architecture, Json, Setting, blocks, settings
from .vit import ATTENTION_IN_MEMORY, CLASSIFIER, MASK_TOKEN
from .vit import NAMES as VIT_NAMES

_SCALES = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
_BLOCK = {"norm1": "norm1", "norm2": "norm2", **_SCALES}

DINOV2_NAMES = (
    Entry("reg_token", "embeddings.register_tokens"),
    Entry("mask_token", "embeddings.mask_token", "n d -> 1 n d"),
    *blocks("encoder.layer.{i}", _BLOCK | {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}),
    *VIT_NAMES,
)
SWIGLU_NAMES = (
    *blocks("encoder.layer.{i}", {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}),
    *DINOV2_NAMES,
)
DINOV2_IN_MEMORY = blocks("encoder.layer.{i}", ATTENTION_IN_MEMORY)
SWIGLU_IN_MEMORY = (
    *blocks("encoder.layer.{i}", {"mlp.fc1": ("mlp.gate_proj", "mlp.up_proj"), "mlp.fc2": "mlp.down_proj"}),
    *DINOV2_IN_MEMORY,
)
_DINOV3_BLOCK = (
    _BLOCK
    | ATTENTION_IN_MEMORY
    | {
        "mlp.fc1_g": "mlp.gate_proj",
        "mlp.fc1_x": "mlp.up_proj",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
    }
)
DINOV3_NAMES = (
    Entry("cls_token", "embeddings.cls_token"),
    Entry("reg_token", "embeddings.register_tokens"),
    Entry("mask_token", "embeddings.mask_token"),
    Entry("patch_embed.proj", "embeddings.patch_embeddings"),
    *blocks("layer.{i}", _DINOV3_BLOCK),
    Entry("norm", "norm"),
)
DINOV3_IN_MEMORY = blocks("model.layer.{i}", _DINOV3_BLOCK)
_ROTARY = Unused(r"(.*\.)?rope_embeddings\.inv_freq", "rotary positions, which follow from the config")
NO_REGISTERS = Unused(r"embeddings\.register_tokens", "there are none in it: one of its axes is 0")


def swiglu_dim(hidden: int) -> int:
    """Two thirds of the width that an MLP without a gate would have, up to a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _mlp_hidden(tower: Json) -> int:
    return int(tower.get("hidden_size", 768) * tower.get("mlp_ratio", 4))


def ratio_of(hidden: int, width: int, *, gated: bool) -> float:
    """The `mlp_ratio` with which an MLP has a width; 1 where none is."""
    if not gated:
        return width // hidden if width % hidden == 0 else (width + 0.5) / hidden
    ratios = range(1, 3 * width // hidden + 2)
    return next((ratio for ratio in ratios if swiglu_dim(hidden * ratio) == width), 1)


def _read_mlp(tower: Json, _: Json) -> dict[str, Any]:
    return {"mlp_dim": _mlp_hidden(tower)}


def _read_swiglu(tower: Json, _: Json) -> dict[str, Any]:
    return {"mlp_dim": swiglu_dim(_mlp_hidden(tower))}


def _write_mlp(config: VitConfig) -> dict[str, Any]:
    # transformers takes whole numbers alone.
    return {"mlp_ratio": max(config.mlp_dim // config.embed_dim, 1)}


def _write_swiglu(config: VitConfig) -> dict[str, Any]:
    return {"mlp_ratio": ratio_of(config.embed_dim, config.mlp_dim, gated=True)}


def _mask_token(config: VitConfig) -> dict[str, tuple[Shape, float]]:
    return {} if config.mask_token else {"embeddings.mask_token": ((1, config.embed_dim), 0.0)}


def _mask_token_and_registers(config: VitConfig) -> dict[str, tuple[Shape, float]]:
    tokens = {} if config.mask_token else {"embeddings.mask_token": ((1, 1, config.embed_dim), 0.0)}
    return tokens if config.reg_tokens else tokens | {"embeddings.register_tokens": ((1, 0, config.embed_dim), 0.0)}


def _dinov2(name: str, model_type: str, base: str, *further: Setting, **fixed: Any) -> tuple[Architecture, ...]:
    """All classes of one model type, for each kind of MLP."""
    model = Architecture(
        name=f"{name}Model",
        model_type=model_type,
        settings=(
            *settings(intermediate_size=None, layer_norm_eps=1e-6, patch_size=14 if name == "Dinov2" else 16),
            Setting("layerscale_value", "layer_scale_init", 1.0),
            Setting("drop_path_rate", "drop_path_rate", 0.0),
            *further,
        ),
        # Every image size is taken as it comes.
        fixed=dict(dynamic_image_size=True, **fixed),
        expected={"use_swiglu_ffn": False},
        read=_read_mlp,
        write=_write_mlp,
        table=DINOV2_NAMES,
        memory=DINOV2_IN_MEMORY,
        base=base,
        square=True,
        masks=True,
        unused=(MASK_TOKEN,),
        added=_mask_token,
    )
    gated = replace(
        model,
        settings=tuple(setting for setting in model.settings if setting.theirs != "hidden_act"),
        fixed=dict(model.fixed) | dict(mlp="swiglu_packed", act="silu"),
        expected={"use_swiglu_ffn": True},
        read=_read_swiglu,
        write=_write_swiglu,
        table=SWIGLU_NAMES,
        memory=SWIGLU_IN_MEMORY,
        fits=lambda data, _: bool(data.get("use_swiglu_ffn")),
    )
    return tuple(
        member
        for variant in (gated, model)
        for member in (
            variant,
            replace(variant, name=f"{name}Backbone", written="back"),
            replace(
                variant,
                name=f"{name}ForImageClassification",
                fixed=dict(variant.fixed) | dict(global_pool="token_avg"),
                head=CLASSIFIER,
                prefixed=True,
                labels=True,
            ),
        )
    )


def _read_dinov3(tower: Json, _: Json) -> dict[str, Any]:
    for name in ("pos_embed_shift", "pos_embed_jitter"):
        if tower.get(name) is not None:
            raise ValueError(
                f"{name}: got {tower[name]}, expected null: of such augmentations there is rescaling alone"
            )
    query, key, value = (tower.get(f"{name}_bias", name != "key") for name in ("query", "key", "value"))
    if query != value or key > query:
        raise ValueError(
            f"query_bias, key_bias, value_bias: got {query}, {key}, {value}, expected all, none or not the key's"
        )
    rope = Rope(
        kind="centered",
        temperature=tower.get("rope_theta", 100.0),
        rotate_half=True,
        rescale=tower.get("pos_embed_rescale", 2.0),
    )
    mlp = "swiglu" if tower.get("use_gated_mlp") else "mlp"
    return {"qkv_bias": query, "k_bias": key or not query, "rope": rope, "mlp": mlp}


def _write_dinov3(config: VitConfig) -> dict[str, Any]:
    rope = config.rope or Rope(kind="centered", rotate_half=True)
    return {
        "query_bias": config.qkv_bias,
        "key_bias": config.qkv_bias and config.k_bias,
        "value_bias": config.qkv_bias,
        "rope_theta": rope.temperature,
        "pos_embed_rescale": rope.rescale,
        "use_gated_mlp": config.mlp == "swiglu",
    }


_REGISTERS = Setting("num_register_tokens", "reg_tokens", 4)
_DINOV3 = Architecture(
    name="DINOv3ViTModel",
    model_type="dinov3_vit",
    settings=(
        *settings(
            hidden_size=384,
            intermediate_size=1536,
            num_attention_heads=6,
            layer_norm_eps=1e-5,
            qkv_bias=None,
            hidden_dropout_prob=None,
            attention_probs_dropout_prob=None,
        ),
        Setting("attention_dropout", "attn_drop_rate", 0.0),
        Setting("proj_bias", "proj_bias", True),
        Setting("mlp_bias", "mlp_bias", True),
        Setting("layerscale_value", "layer_scale_init", 1.0),
        Setting("drop_path_rate", "drop_path_rate", 0.0),
        replace(_REGISTERS, default=0),
    ),
    fixed=dict(pos_embed="none", dynamic_image_size=True),
    read=_read_dinov3,
    write=_write_dinov3,
    table=DINOV3_NAMES,
    memory=DINOV3_IN_MEMORY,
    masks=True,
    unused=(MASK_TOKEN, NO_REGISTERS, _ROTARY),
    added=_mask_token_and_registers,
)

ARCHITECTURES = (
    *_dinov2("Dinov2", "dinov2", "dinov2.", pos_embed_resize="bicubic"),
    *_dinov2(
        "Dinov2WithRegisters",
        "dinov2_with_registers",
        "dinov2_with_registers.",
        _REGISTERS,
        pos_embed_prefix="class",
        pos_embed_resize="bicubic_antialias",
    ),
    _DINOV3,
    replace(_DINOV3, name="DINOv3ViTBackbone", written="back"),
)
