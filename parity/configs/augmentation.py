"""What is done at random to training images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images; the default changes nothing.

    Attributes:
        random_resized_crop: Least and greatest share of the image's area that the crop covers, (0.08, 1) in Inception;
            its aspect ratio is between 3/4 and 4/3. None resizes and crops as in evaluation.
        horizontal_flip: Mirrors every other image, on average.
        rotate: Greatest rotation about the centre, in degrees, either way; what comes into view is black.
        shift: Greatest shift along each axis, in pixels of the model's input; what comes into view is black.
        mixup: Images 2i and 2i + 1 of a batch are averaged with weights of Beta(mixup, mixup), and so are their targets
            (Zhang et al. 2017, arXiv:1710.09412); 0 doesn't.
        cutmix: They exchange a rectangle, and their targets in proportion (Yun et al. 2019, arXiv:1905.04899), whose
            area left is of Beta(cutmix, cutmix); 0 doesn't. With both, each pair gets either with probability 1/2.
    """

    random_resized_crop: tuple[float, float] | None = None
    horizontal_flip: bool = False
    shift: int = 0
    rotate: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        scale = self.random_resized_crop
        if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
            raise ValueError(f"random_resized_crop: got {scale}, expected 0 < least <= greatest <= 1")
        if self.shift < 0:
            raise ValueError(f"shift: got {self.shift}, expected 0 or more pixels")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate: got {self.rotate}, expected 0 to 180 degrees")
        for name in ("mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 0 or more")
