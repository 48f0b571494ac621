"""How each project runs the same weights: the fields in which their configs of one model differ.

The weights of ViT-B/16 from Google are one set of numbers, but Google runs them with the tanh approximation of GELU,
timm with GELU itself, and transformers with another epsilon. Sources: each project's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...configs import Config, VitConfig, close_match, get, names, replace
from ...configs.mobilevit import MobileVitConfig
from ...configs.pvt import PvtConfig
from ...configs.registry import FAMILIES
from ...configs.resnet import ResNetConfig
from ...configs.swin import SwinConfig

# What projects choose for themselves, while everything else is in the weights.
FIELDS = tuple(dict.fromkeys(field for family in FAMILIES.values() for field in family.numerics))


@dataclass(frozen=True)
class Numerics:
    """How a project runs one kind of model.

    Attributes:
        source: The project.
        kind: What kind of model, in words.
        fits: Whether a config is of that kind.
        fields: Values of some of `FIELDS`.
        family: The family of the models of that kind.
    """

    source: str
    kind: str
    fits: Callable[[Any], bool]
    fields: dict[str, Any]
    family: type[Config] = VitConfig

    def is_of(self, config: Config) -> bool:
        """Whether a config is of this kind."""
        return isinstance(config, self.family) and self.fits(config)


def _plain(config: VitConfig) -> bool:
    """The ViT of the first paper and what kept its options."""
    other = config.mlp != "mlp" or config.rope is not None or config.rel_pos_bias != "none"
    return not other and not config.pre_norm and config.layer_scale_init is None and config.block == "pre_norm"


def _token_pooled(config: VitConfig) -> bool:
    return _plain(config) and config.global_pool in ("token", "avg")


def _map_pooled(config: VitConfig) -> bool:
    return _plain(config) and config.global_pool == "map"


def _clip(config: VitConfig) -> bool:
    return config.pre_norm and config.rope is None and config.block == "pre_norm"


def _first(config: SwinConfig | MobileVitConfig) -> bool:
    return config.version == 1


def _second(config: SwinConfig | MobileVitConfig) -> bool:
    return config.version == 2


def _any(_: Config) -> bool:
    return True


def _scaled(config: VitConfig) -> bool:
    return config.layer_scale_init is not None and config.pos_embed == "learned" and config.block == "pre_norm"


def _hybrid(config: VitConfig) -> bool:
    return _token_pooled(config) and config.stem == "bit"


TABLE = (
    Numerics(
        "google",
        "hybrids",
        _hybrid,
        dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="zoom")
        | dict(stem_norm_eps=1e-6, stem_conv_eps=1e-5, stem_conv_std="deviation"),
    ),
    Numerics("google", "ViT", _plain, dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="zoom")),
    Numerics("huggingface", "SigLIP", _map_pooled, dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="bicubic")),
    Numerics("huggingface", "CLIP", _clip, dict(norm_eps=1e-5, pos_embed_resize="bicubic")),
    Numerics(
        "huggingface",
        "DINOv2 with registers",
        lambda config: _scaled(config) and config.reg_tokens > 0,
        dict(act="gelu", norm_eps=1e-6, pos_embed_resize="bicubic_antialias"),
    ),
    Numerics("huggingface", "DINOv2", _scaled, dict(norm_eps=1e-6, pos_embed_resize="bicubic")),
    Numerics(
        "huggingface",
        "BEiT",
        lambda config: config.rel_pos_bias != "none",
        dict(act="gelu", norm_eps=1e-12, rel_pos_resize="bilinear"),
    ),
    Numerics(
        "huggingface", "ViT, DeiT, MAE", _token_pooled, dict(act="gelu", norm_eps=1e-12, pos_embed_resize="bicubic")
    ),
    Numerics(
        "torchvision", "ViT", _token_pooled, dict(act="gelu", norm_eps=1e-6, pos_embed_resize="bicubic_align_corners")
    ),
    Numerics("open_clip", "CLIP", _clip, dict(norm_eps=1e-5, pos_embed_resize="bicubic_antialias")),
    Numerics("meta", "DINOv2", _scaled, dict(norm_eps=1e-6, pos_embed_resize="bicubic_offset")),
    Numerics("meta", "DeiT, MAE", _token_pooled, dict(act="gelu", norm_eps=1e-6, pos_embed_resize="bicubic")),
    Numerics("huggingface", "Swin", _first, dict(window_fit="shrink_both", shift_mask=-100.0), SwinConfig),
    Numerics("huggingface", "Swin V2", _second, dict(window_fit="shrink_height", shift_mask=-200.0), SwinConfig),
    Numerics("huggingface", "PVT v2", _any, dict(norm_eps=1e-6, embed_norm_eps=1e-6), PvtConfig),
    Numerics("huggingface", "MobileViT", _first, dict(norm_eps=1e-5, patch_fit="bilinear"), MobileVitConfig),
    Numerics("huggingface", "MobileViT v2", _second, dict(norm_eps=1e-5, patch_fit="zeros"), MobileVitConfig),
    Numerics("huggingface", "ResNet", _any, dict(norm_eps=1e-5), ResNetConfig),
    Numerics("torchvision", "Swin", _any, dict(window_fit="pad", shift_mask=-100.0, norm_eps=1e-5), SwinConfig),
    Numerics(
        "microsoft",
        "Swin",
        _any,
        dict(window_fit="shrink_both", shift_mask=-100.0, norm_eps=1e-5, rel_pos_resize="bicubic"),
        SwinConfig,
    ),
)
SOURCES = ("timm", *dict.fromkeys(entry.source for entry in TABLE))


def with_numerics(config: Config, source: str, *, name: str = "") -> Config:
    """A config as a project would run its weights.

    Args:
        config: The config of the weights.
        source: One of `SOURCES`.
        name: The registered name of the model, whose numerics are timm's, if it is known.

    Raises:
        ValueError: Unknown source, or one that has no model of this kind.
    """
    if source not in SOURCES:
        expected = f"one of {', '.join(SOURCES)}{close_match(source, SOURCES)}"
        raise ValueError(f"numerics: got {source!r}, expected {expected}")
    fields = _of_timm(config, name) if source == "timm" else _of(config, source)
    if fields is None:
        raise ValueError(f"numerics: {source} has no model of this kind, so nothing says how it would run it")
    return replace(config, **fields)


def sources_of(config: Config, *, name: str = "") -> list[str]:
    """The projects that would run the config's weights exactly as the config does."""
    return [source for source in SOURCES if _fits(config, source, name)]


def _fits(config: Config, source: str, name: str) -> bool:
    try:
        return with_numerics(config, source, name=name) == config
    except ValueError:
        return False


def _of(config: Config, source: str) -> dict[str, Any] | None:
    return next((entry.fields for entry in TABLE if entry.source == source and entry.is_of(config)), None)


def _of_timm(config: Config, name: str) -> dict[str, Any] | None:
    """The numerics of the registered model of that name, or of the first that differs in numerics and sizes alone."""
    for candidate in [name] if name in names() else names():
        registered = get(candidate)
        same = type(registered) is type(config) and _structure(registered) == _structure(config)
        if candidate == name or same:
            return {field: getattr(registered, field) for field in registered.numerics}
    return None


_SIZES = (
    *("image_size", "patch_size", "num_classes", "embed_dim", "depth", "num_heads", "num_kv_heads", "mlp_dim"),
    *("depths", "window_sizes", "trained_windows", "embed_dims", "mlp_dims", "sr_ratios"),
    *("stem_dim", "dims", "expand_ratio", "transformer_dims", "transformer_depths", "out_dim"),
)
_TRAINING = ("drop_rate", "attn_drop_rate", "drop_path_rate", "preprocessing", "dynamic_image_size", "layer_scale_init")


def _structure(config: Config) -> dict[str, Any]:
    kept = {key: value for key, value in vars(config).items() if key not in (*config.numerics, *_SIZES, *_TRAINING)}
    return kept | {"layer_scale": getattr(config, "layer_scale_init", None) is not None}
