"""What configs of hierarchies share: stages of blocks, on a map that halves its sides from one to the next."""

from __future__ import annotations

import dataclasses
import math
from typing import Self

from .base import ModelConfig
from .fields import expect

# A file may ask for any number of blocks, and counting their tensors would take as long as it says.
_MAX_DEPTH = 1024
# Tables of foreign names have as many.
MAX_STAGES = 8


class StagedConfig(ModelConfig):
    """A config with `depths`, the blocks of each stage, whose units are the blocks of all stages."""

    depths: tuple[int, ...]

    @property
    def depth(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The blocks of all stages."""
        return sum(self.depths)

    @property
    def num_stages(self) -> int:
        """How many stages there are."""
        return len(self.depths)

    @property
    def first_stride(self) -> tuple[int, int]:
        """By how much the map of the first stage is smaller than an image, down and across."""
        return (4, 4)

    @property
    def grid_sizes(self) -> tuple[tuple[int, int], ...]:
        """The map of each stage, down and across; odd sides are rounded up when they are halved."""
        height, width = (
            math.ceil(image / stride) for image, stride in zip(self.image_size, self.first_stride, strict=True)
        )
        return tuple((math.ceil(height / 2**stage), math.ceil(width / 2**stage)) for stage in range(self.num_stages))

    @property
    def drop_path_rates(self) -> tuple[tuple[float, ...], ...]:
        """Stochastic depth of each block of each stage."""
        rates = iter(self.drop_path_rate * i / max(self.depth - 1, 1) for i in range(self.depth))
        return tuple(tuple(next(rates) for _ in range(depth)) for depth in self.depths)

    @property
    def facts(self) -> dict[str, str]:
        """The maps."""
        return {"maps": ", ".join(f"{height} x {width}" for height, width in self.grid_sizes)}

    def shortened(self, depth: int) -> Self:
        """Every stage, with as many of its first blocks as make `depth`, two at least where it has them."""
        depths = [min(2, own) for own in self.depths]
        for stage, own in enumerate(self.depths):
            depths[stage] += max(min(depth - sum(depths), own - depths[stage]), 0)
        return dataclasses.replace(self, depths=tuple(depths))

    def check_stages(self, *names: str) -> None:
        """Whether the depths make stages, and fields have a positive integer for each of them.

        Args:
            names: Names of the fields.

        Raises:
            ValueError: They don't; names the field.
        """
        stages = f"one number of blocks for each of 1 to {MAX_STAGES} stages"
        expect(1 <= self.num_stages <= MAX_STAGES, "depths", self.depths, stages)
        expect(min(self.depths) >= 1, "depths", self.depths, "positive integers")
        expect(self.depth <= _MAX_DEPTH, "depths", self.depths, f"at most {_MAX_DEPTH} blocks")
        for name in names:
            values = getattr(self, name)
            fits = len(values) == self.num_stages and min(values) >= 1
            expect(fits, name, values, f"a positive integer for each of the {self.num_stages} stages")
