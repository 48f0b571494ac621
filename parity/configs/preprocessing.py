"""How an image becomes a model's input: the part of a model's numerics that lies before its first layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OPENAI_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop and normalise.

    Attributes:
        mean: Per channel, of images scaled to [0, 1]; one value for each input channel.
        std: Per channel, as `mean`.
        interpolation: Kernel of the resize (Pillow's meaning, antialiased).
        crop_pct: The image is resized so that the crop covers this fraction of it.
        crop_mode: `center` resizes the short side and crops; `squash` resizes both sides and loses the aspect ratio.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.9
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std: got {len(self.mean)} and {len(self.std)} channels, expected as many of both"
            )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std: got {self.std}, expected values above 0")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct: got {self.crop_pct}, expected a value in (0, 1]")
