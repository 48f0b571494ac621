"""What is done at random to a training image."""

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
    """

    random_resized_crop: tuple[float, float] | None = None
    horizontal_flip: bool = False
    shift: int = 0
    rotate: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        scale = self.random_resized_crop
        if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
            raise ValueError(f"random_resized_crop: got {scale}, expected 0 < least <= greatest <= 1")
        if self.shift < 0:
            raise ValueError(f"shift: got {self.shift}, expected 0 or more pixels")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate: got {self.rotate}, expected 0 to 180 degrees")
