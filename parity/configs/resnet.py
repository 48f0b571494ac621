"""The config of ResNets and its named models.

Source: He et al. 2015, arXiv:1512.03385, table 1, with the stride of a bottleneck in its 3 x 3 convolution ("v1.5",
Goyal et al. 2017, arXiv:1706.02677). The models are those of timm's and torchvision's names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .fields import as_pair, check_fields, expect
from .preprocessing import Preprocessing
from .stages import StagedConfig

if TYPE_CHECKING:
    import numpy as np

# How many times as wide a block is outside as inside.
EXPANSION = {"basic": 1, "bottleneck": 4}


def _model(block: str, *depths: int) -> dict[str, Any]:
    """The fields of a named model."""
    return dict(normalize="imagenet", crop_pct=0.95, num_classes=1000, block=block, depths=depths)


_REGISTERED = {
    "resnet18": _model("basic", 2, 2, 2, 2),
    "resnet34": _model("basic", 3, 4, 6, 3),
    "resnet50": _model("bottleneck", 3, 4, 6, 3),
    "resnet101": _model("bottleneck", 3, 4, 23, 3),
    "resnet152": _model("bottleneck", 3, 8, 36, 3),
}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(StagedConfig):
    """Stages of residual blocks of convolutions with BatchNorm, on a map that halves its sides from one to the next.

    Attributes:
        image_size: Height and width in pixels of the images that the model is meant for; it takes every size.
        in_chans: The number of channels of the images.
        num_classes: The width of the head; 0 leaves it out and the model returns pooled features.
        block: Two convolutions of 3 x 3, or three of 1 x 1, 3 x 3 and 1 x 1, of which the last is four times as wide.
        depths: The blocks of each stage.
        width: Channels of the stem and inside of the first stage; each has twice that of the one before.
        norm_eps: The epsilon of every BatchNorm.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = _REGISTERED
    numerics: ClassVar[tuple[str, ...]] = ("norm_eps",)
    heads: ClassVar[tuple[str, ...]] = ("fc",)

    image_size: tuple[int, int] = (224, 224)
    in_chans: int = 3
    num_classes: int = 1000
    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    norm_eps: float = 1e-5
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def inner_dims(self) -> tuple[int, ...]:
        """Channels inside of the blocks of each stage."""
        return tuple(self.width * 2**stage for stage in range(self.num_stages))

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage's map."""
        return tuple(EXPANSION[self.block] * dim for dim in self.inner_dims)

    def shrinks(self, stage: int, block: int) -> tuple[int, bool]:
        """The stride of a block, and whether a convolution is beside its branch."""
        stride = 2 if stage and not block else 1
        return stride, not block and (stride > 1 or EXPANSION[self.block] > 1)

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The map of the stem, of stride 2, and those of the stages."""
        return ("stem", *(f"layer{stage + 1}" for stage in range(self.num_stages)))

    @property
    def summary(self) -> dict[str, str]:
        """Sizes."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "block": self.block,
            "dim": "-".join(map(str, self.dims)),
            "depth": "-".join(map(str, self.depths)),
            "classes": str(self.num_classes),
        }

    def layer_of(self, name: str) -> int:
        """0 in the stem, then the blocks."""
        first, *rest = name.split(".")
        if not first.startswith("layer"):
            return self.depth + 1 if first == "fc" else 0
        return sum(self.depths[: int(first.removeprefix("layer")) - 1]) + int(rest[0]) + 1

    def constant(self, name: str) -> float:
        """The last BatchNorm of a branch starts at 0, so that a block begins as nothing (Goyal et al. 2017)."""
        last = "bn3.weight" if self.block == "bottleneck" else "bn2.weight"
        return 0.0 if name.startswith("layer") and name.endswith(last) else super().constant(name)

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """Convolutions are drawn from a normal law of (2 / fan_out)^1/2 (He et al. 2015, arXiv:1502.01852, eq. 14)."""
        return math.sqrt(2 / (shape[0] * shape[2] * shape[3])) * rng.standard_normal(shape) if len(shape) == 4 else None

    def reduced(self, depth: int) -> ResNetConfig:
        """As few blocks, on maps with odd sides."""
        plain = Preprocessing(mean=(0.5,), std=(0.5,))
        return replace(self.shortened(depth), image_size=(35, 42), preprocessing=plain)

    def narrowed(self) -> ResNetConfig:
        """One small width, and two stages."""
        return replace(self, width=6, depths=(2, 2), num_classes=7 if self.num_classes else 0)

    def activations(self, *, backward: bool) -> int:
        """Those of every block; of the largest one without a backward pass."""
        blocks = [4 * math.prod(self.image_size) // 4 * self.width]
        for stage, (height, width) in enumerate(self.grid_sizes):
            blocks += [height * width * (6 * self.inner_dims[stage] + 4 * self.dims[stage])] * self.depths[stage]
        return sum(blocks) if backward else max(blocks)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        object.__setattr__(self, "image_size", as_pair("image_size", self.image_size))
        check_fields(self)
        for name in ("in_chans", "width"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        expect(self.num_classes >= 0, "num_classes", self.num_classes, "0 or a positive integer")
        expect(min(self.image_size) >= 1, "image_size", self.image_size, "positive integers")
        self.check_stages()
        expect(self.norm_eps > 0, "norm_eps", self.norm_eps, "a value above 0")
