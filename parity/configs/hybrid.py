"""The named hybrids: flat Vision Transformers whose patches are embedded by convolutions (timm's module of that name).

Sources: Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1, and Steiner et al. 2021, arXiv:2106.10270, with BiT's
ResNet in front; Vasu et al. 2024, arXiv:2311.17049 (MobileCLIP-B). timm's hybrids with its `resnet26d` and `resnet50d`,
of which no weights were published, aren't here.
"""

from __future__ import annotations

from .models import BASE, LARGE, SMALL, TINY, Fields, at


def _bit(*depths: int) -> Fields:
    return dict(stem="bit", stem_depths=depths)


_WHOLE = dict(crop_pct=1.0)
HYBRID: dict[str, Fields] = {
    "vit_tiny_r_s16_p8_224": TINY | at(32, 224) | _bit(),
    "vit_tiny_r_s16_p8_384": TINY | at(32, 384) | _bit() | _WHOLE,
    "vit_small_r26_s32_224": SMALL | at(32, 224) | _bit(2, 2, 2, 2),
    "vit_small_r26_s32_384": SMALL | at(32, 384) | _bit(2, 2, 2, 2) | _WHOLE,
    "vit_base_r26_s32_224": BASE | at(32, 224) | _bit(2, 2, 2, 2),
    "vit_base_r50_s16_224": BASE | at(16, 224) | _bit(3, 4, 9),
    "vit_base_r50_s16_384": BASE | at(16, 384) | _bit(3, 4, 9) | _WHOLE,
    "vit_large_r50_s32_224": LARGE | at(32, 224) | _bit(3, 4, 6, 3),
    "vit_large_r50_s32_384": LARGE | at(32, 384) | _bit(3, 4, 6, 3) | _WHOLE,
    "vit_base_mci_224": BASE | at(16, 224, stem="mci", pos_embed_prefix="none", normalize="unit", num_classes=512),
}
