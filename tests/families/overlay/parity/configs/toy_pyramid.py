"""The config of a toy pyramid: convolutions with BatchNorm that shrink the map, then attention over what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from .base import ModelConfig
from .fields import as_pair, check_fields, expect
from .preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class ToyPyramidConfig(ModelConfig):
    """A stem, stages of convolutions, blocks of attention, and a head on the mean of the map.

    Attributes:
        image_size: Height and width in pixels; multiples of the stride.
        in_chans: The number of channels of the images.
        num_classes: The width of the head; 0 leaves it out and the model returns pooled features.
        dims: Channels of the stem and of each stage; the last are those of the blocks.
        depth: The number of stages and blocks together.
        num_heads: The number of heads; divides the last channels.
        mlp_dim: The hidden width of the blocks' MLP.
        norm_eps: The epsilon of every BatchNorm and LayerNorm.
        drop_path_rate: The rate of stochastic depth in the last block.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "toy_pyramid": dict(normalize="imagenet"),
        "toy_pyramid_deep": dict(normalize="imagenet", dims=(8, 20), depth=4, num_heads=5, image_size=(16, 28)),
    }
    numerics: ClassVar[tuple[str, ...]] = ("norm_eps",)

    image_size: tuple[int, int] = (24, 40)
    in_chans: int = 3
    num_classes: int = 10
    dims: tuple[int, ...] = (8, 12, 20)
    depth: int = 3
    num_heads: int = 4
    mlp_dim: int = 36
    norm_eps: float = 1e-5
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def dim(self) -> int:
        """The width of the blocks."""
        return self.dims[-1]

    @property
    def num_stages(self) -> int:
        """The stages of convolutions, each of half the size of the one before."""
        return len(self.dims) - 1

    @property
    def num_blocks(self) -> int:
        """The blocks of attention."""
        return self.depth - self.num_stages

    @property
    def stride(self) -> int:
        """Pixels to a cell of the last map."""
        return 2 ** len(self.dims)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Cells of the last map, down and across."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @property
    def drop_path_rates(self) -> tuple[float, ...]:
        """Stochastic depth of each block."""
        return tuple(self.drop_path_rate * i / max(self.num_blocks - 1, 1) for i in range(self.num_blocks))

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The maps of the stem, the stages and the blocks."""
        stages = (f"stages.{i}" for i in range(self.num_stages))
        return ("stem", *stages, *(f"blocks.{i}" for i in range(self.num_blocks)))

    @property
    def summary(self) -> dict[str, str]:
        """Sizes."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "dims": "-".join(map(str, self.dims)),
            "depth": str(self.depth),
            "heads": str(self.num_heads),
            "mlp": str(self.mlp_dim),
            "classes": str(self.num_classes),
        }

    @property
    def facts(self) -> dict[str, str]:
        """The last map."""
        return {"map": f"{self.grid_size[0]} x {self.grid_size[1]}"}

    def layer_of(self, name: str) -> int:
        """0 in the stem, then the stages, then the blocks."""
        first, *rest = name.split(".")
        if first == "stages":
            return int(rest[0]) + 1
        if first == "blocks":
            return self.num_stages + int(rest[0]) + 1
        return 0 if first == "stem" else self.depth + 1

    def shortened(self, depth: int) -> ToyPyramidConfig:
        """The stages and the first blocks, one at least."""
        return replace(self, depth=min(self.depth, max(depth, self.num_stages + 1)))

    def reduced(self, depth: int) -> ToyPyramidConfig:
        """As few blocks, on a map of 3 x 2."""
        small = (3 * self.stride, 2 * self.stride)
        plain = Preprocessing(mean=(0.5,), std=(0.5,))
        return replace(self.shortened(depth), image_size=small, preprocessing=plain)

    def narrowed(self) -> ToyPyramidConfig:
        """One small width."""
        dims = tuple(4 * (i + 2) for i in range(len(self.dims)))
        return replace(self, dims=dims, num_heads=2, mlp_dim=20, num_classes=7 if self.num_classes else 0)

    def activations(self, *, backward: bool) -> int:
        """Those of every map; of few units at a time without a backward pass."""
        cells = self.image_size[0] * self.image_size[1] * sum(dim // 4**i for i, dim in enumerate(self.dims))
        tokens = self.grid_size[0] * self.grid_size[1]
        block = tokens * (12 * self.dims[-1] + 4 * self.mlp_dim) + 3 * self.num_heads * tokens**2
        return 4 * cells + (self.num_blocks if backward else 1) * block

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        object.__setattr__(self, "image_size", as_pair("image_size", self.image_size))
        check_fields(self)
        expect(len(self.dims) >= 2 and min(self.dims) >= 1, "dims", self.dims, "two or more positive integers")
        for name in ("in_chans", "num_heads", "mlp_dim"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        expect(self.num_classes >= 0, "num_classes", self.num_classes, "0 or a positive integer")
        expect(self.num_blocks >= 1, "depth", self.depth, f"more than the {self.num_stages} stages")
        fits = all(side % self.stride == 0 for side in self.image_size)
        expect(fits, "image_size", self.image_size, f"multiples of the stride {self.stride}")
        heads = f"a divisor of the last of dims {self.dims}"
        expect(self.dim % self.num_heads == 0, "num_heads", self.num_heads, heads)
        expect(self.norm_eps > 0, "norm_eps", self.norm_eps, "a value above 0")
        expect(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "a value in [0, 1)")
