"""open_clip's Vision Transformers by open_clip's names: what `open_clip.create_model("ViT-B-32")` builds.

A name with `-quickgelu` behind it is the same model with OpenAI's GELU. Models that differ in the text tower alone
share an entry, for that tower is no part of this project.

Source: open_clip `model_configs/*.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...configs import VitConfig, get, names

Json = dict[str, Any]

_S, _M = dict(width=384), dict(width=512)
_B: Json = {}  # open_clip's defaults are those of ViT-B/16
_L = dict(width=1024, layers=24)
_H = dict(width=1280, layers=32, head_width=80)
_BIG = dict(width=1664, layers=48, head_width=104, mlp_ratio=4.9231)
_CLIPA = dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True)

# Outputs, and `vision_cfg`.
_OWN: Mapping[str, tuple[int, Json]] = {
    "ViT-S-16": (384, _S),
    "ViT-S-16-alt": (256, _S),
    "ViT-S-32": (384, _S | dict(patch_size=32)),
    "ViT-S-32-alt": (256, _S | dict(patch_size=32)),
    "ViT-M-16": (512, _M),
    "ViT-M-16-alt": (384, _M | dict(ls_init_value=1e-4)),
    "ViT-M-32": (512, _M | dict(patch_size=32)),
    "ViT-M-32-alt": (384, _M | dict(patch_size=32)),
    "ViT-B-16": (512, _B),
    "ViT-B-16-plus": (640, _B | dict(width=896)),
    "ViT-B-16-plus-240": (640, _B | dict(width=896, image_size=240)),
    "ViT-B-32": (512, _B | dict(patch_size=32)),
    "ViT-B-32-256": (512, _B | dict(patch_size=32, image_size=256)),
    "ViT-B-32-plus-256": (640, _B | dict(width=896, patch_size=32, image_size=256)),
    "ViT-L-14": (768, _L | dict(patch_size=14)),
    "ViT-L-14-280": (768, _L | dict(patch_size=14, image_size=280)),
    "ViT-L-14-336": (768, _L | dict(patch_size=14, image_size=336)),
    "ViT-L-14-CLIPA": (768, _L | _CLIPA | dict(patch_size=14)),
    "ViT-L-14-CLIPA-336": (768, _L | _CLIPA | dict(patch_size=14, image_size=336)),
    "ViT-L-16": (768, _L),
    "ViT-L-16-320": (768, _L | dict(image_size=320)),
    "ViT-H-14": (1024, _H | dict(patch_size=14)),
    "ViT-H-14-378": (1024, _H | dict(patch_size=14, image_size=378)),
    "ViT-H-14-CLIPA": (1024, _H | _CLIPA | dict(patch_size=14)),
    "ViT-H-14-CLIPA-336": (1024, _H | _CLIPA | dict(patch_size=14, image_size=336)),
    "ViT-H-16": (1024, _H),
    "ViT-g-14": (1024, dict(width=1408, layers=40, head_width=88, mlp_ratio=4.3637, patch_size=14)),
    "ViT-bigG-14": (1280, _BIG | dict(patch_size=14)),
    "ViT-bigG-14-CLIPA": (1280, _BIG | _CLIPA | dict(patch_size=14)),
    "ViT-bigG-14-CLIPA-336": (1280, _BIG | _CLIPA | dict(patch_size=14, image_size=336)),
    "ViT-bigG-14-worldwide-378": (1280, _BIG | dict(patch_size=14, image_size=378)),
    "ViT-e-14": (1280, dict(width=1792, layers=56, head_width=112, mlp_ratio=8.5715, patch_size=14)),
    "coca_base": (512, _B | dict(patch_size=18, image_size=288)),
}
# Outputs, and timm's model.
_TRUNKS: Mapping[str, tuple[int, str]] = {
    "EVA01-g-14": (1024, "eva_giant_patch14_224"),
    "EVA01-g-14-plus": (1024, "eva_giant_patch14_224"),
    "EVA02-B-16": (512, "eva02_base_patch16_clip_224"),
    "EVA02-E-14": (1024, "eva02_enormous_patch14_clip_224"),
    "EVA02-E-14-plus": (1024, "eva02_enormous_patch14_clip_224"),
    "EVA02-L-14": (768, "eva02_large_patch14_clip_224"),
    "EVA02-L-14-336": (768, "eva02_large_patch14_clip_336"),
    "MobileCLIP-B": (512, "vit_base_mci_224"),
    "MobileCLIP2-B": (512, "vit_base_mci_224"),
    "MobileCLIP2-L-14": (768, "vit_large_patch14_clip_224"),
    "PE-Core-B-16": (1024, "vit_pe_core_base_patch16_224"),
    "PE-Core-L-14-336": (1024, "vit_pe_core_large_patch14_336"),
    "PE-Core-S-16-384": (512, "vit_pe_core_small_patch16_384"),
    "PE-Core-T-16-384": (512, "vit_pe_core_tiny_patch16_384"),
    "PE-Core-bigG-14-448": (1280, "vit_pe_core_gigantic_patch14_448"),
}
_SIGLIP = re.compile(r"ViT-(?P<size>B|L|SO400M|gopt)-(?P<patch>\d+)-SigLIP2?(?:-i18n)?(?:-(?P<image>\d+))?")
_SIGLIP_SIZES = {"B": "base", "L": "large", "SO400M": "so400m", "gopt": "giantopt"}
# Other text towers beside the same image tower.
_SAME = {
    "ViT-L-14-worldwide": "ViT-L-14",
    "ViT-L-14-worldwide-quickgelu": "ViT-L-14-quickgelu",
    "ViT-H-14-worldwide": "ViT-H-14",
    "ViT-H-14-worldwide-378": "ViT-H-14-378",
    "ViT-H-14-worldwide-quickgelu": "ViT-H-14-quickgelu",
    "ViT-bigG-14-worldwide": "ViT-bigG-14",
    "coca_roberta-ViT-B-32": "ViT-B-32",
    "mt5-base-ViT-B-32": "ViT-B-32",
    "mt5-xl-ViT-H-14": "ViT-H-14",
    "nllb-clip-base": "ViT-B-32",
    "nllb-clip-base-siglip": "ViT-B-16-SigLIP-384",
    "nllb-clip-large": "ViT-H-14",
    "nllb-clip-large-siglip": "ViT-SO400M-14-SigLIP-384",
    "roberta-ViT-B-32": "ViT-B-32-quickgelu",
    "xlm-roberta-base-ViT-B-32": "ViT-B-32",
    "xlm-roberta-large-ViT-H-14": "ViT-H-14",
}
_QUICK = "-quickgelu"


def model_cfg(name: str) -> Json | None:
    """`model_cfg` of an image tower, as `open_clip_config.json` has it.

    Args:
        name: One of open_clip's; a slash stands for a dash, as there.

    Returns:
        None for a name that is none of its Vision Transformers.
    """
    name = name.replace("/", "-")
    name = _SAME.get(name, name)
    if (base := name.removesuffix(_QUICK)) in _OWN:
        outputs, vision = _OWN[base]
        return {"embed_dim": outputs, "vision_cfg": dict(vision)} | ({"quick_gelu": True} if base != name else {})
    if name in _TRUNKS:
        outputs, trunk = _TRUNKS[name]
        pool = "map" if name.startswith("PE-") else "token"
        return {"embed_dim": outputs, "vision_cfg": _trunk(trunk, pool, None)}
    if match := _SIGLIP.fullmatch(name):
        trunk = f"vit_{_SIGLIP_SIZES[match['size']]}_patch{match['patch']}_siglip_{match['image'] or 224}"
        if trunk in names(trunk):
            return {"embed_dim": VitConfig.of(get(trunk)).embed_dim, "vision_cfg": _trunk(trunk, "map", "none")}
    return None


def own_names() -> Iterator[tuple[str, Json]]:
    """The names of open_clip's own towers, each with `vision_cfg`, first without and then with OpenAI's GELU."""
    for suffix in ("", _QUICK):
        yield from ((name + suffix, vision) for name, (_, vision) in _OWN.items())


def _trunk(trunk: str, pool: str, proj: str | None) -> Json:
    size = get(trunk).image_size[0]
    return {"timm_model_name": trunk, "timm_pool": pool, "timm_proj": proj, "image_size": size}
