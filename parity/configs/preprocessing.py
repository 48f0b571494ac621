"""How an image becomes a model's input: the part of a model's numerics that lies before its first layer."""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import Literal

from .fields import check_fields

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash", "border"]
CropRounding = Literal["even", "down"]
ChannelOrder = Literal["rgb", "bgr"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OPENAI_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
# Red, green and blue of a grey image: Pillow's `L`, ITU-R 601.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop and normalise.

    Attributes:
        mean: The mean of images scaled to [0, 1]; one value for each input channel, or one for all of them.
        std: The standard deviation of the same images; as many values as `mean`.
        interpolation: Kernel of the resize (Pillow's meaning, antialiased).
        crop_pct: The image is resized so that the crop covers this fraction of it (`crop_pct_of` makes it of pixels).
        crop_mode: `center` resizes the short side and crops; `squash` resizes both sides and loses the aspect ratio;
            `border` resizes the long side and fills up.
        crop_rounding: Where the crop begins when the rest is odd: half a pixel goes to the even neighbour (torchvision,
            timm, open_clip) or down (transformers).
        fill: What `border` fills up with, 0 to 255; None for `mean` (timm). open_clip has 0.
        channel_order: Whether the channels of an input are those of the image, or the other way round (MobileViTs in
            transformers); `mean` and `std` are in the order of the image.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.9
    crop_mode: CropMode = "center"
    crop_rounding: CropRounding = "even"
    fill: int | None = None
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        check_fields(self)
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std: got {len(self.mean)} and {len(self.std)} channels, expected as many of both"
            )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std: got {self.std}, expected values above 0")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct: got {self.crop_pct}, expected a value in (0, 1]")
        if self.fill is not None and not 0 <= self.fill <= 255:
            raise ValueError(f"fill: got {self.fill}, expected 0 to 255, or none")

    @property
    def greatest(self) -> float:
        """The greatest value of a normalised image: that of white, in the channel where it is most."""
        return max((1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    def grey(self) -> Preprocessing:
        """The same for a model of one channel, whose images are 0.299 red + 0.587 green + 0.114 blue.

        The mean of such images is the same sum of the channels' means. Of their deviations it is an upper bound, which
        channels that move together, as photographs' nearly do, come close to.
        """
        if len(self.mean) != len(LUMA):
            return self
        mean, std = (round(sum(map(operator.mul, LUMA, values)), 6) for values in (self.mean, self.std))
        return dataclasses.replace(self, mean=(mean,), std=(std,))

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width that an image is resized to cover, fill or fit in, before `size` is cut from it."""
        return math.floor(size[0] / self.crop_pct), math.floor(size[1] / self.crop_pct)


def crop_pct_of(resized: tuple[int, int], size: tuple[int, int]) -> float:
    """The `crop_pct` with which images are resized to `resized` before `size` is cut from them.

    Raises:
        ValueError: There is none: a crop that is larger, or sides in other ratios.
    """
    # The quotient itself may fall short of a whole number when it is divided back; half a pixel more never does.
    for spare in (0, 0.5):
        fraction = size[0] / (resized[0] + spare)
        if fraction <= 1 and Preprocessing(crop_pct=fraction).resized(size) == resized:
            return fraction
    raise ValueError(f"crop: got {size} of images resized to {resized}, expected a smaller crop of the same shape")
