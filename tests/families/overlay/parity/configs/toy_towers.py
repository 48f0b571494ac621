"""The config of two toy towers, of images and of texts, whose features meet in one space (as CLIP's)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from .base import Input, ModelConfig
from .fields import as_pair, check_fields, expect
from .preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class ToyTowersConfig(ModelConfig):
    """Patches and tokens, blocks of each, projections, and the scaled cosines of all pairs.

    Attributes:
        image_size: Height and width in pixels; multiples of the patch size.
        patch_size: Height and width of a patch in pixels.
        in_chans: The number of channels of the images.
        vocabulary: The number of token ids.
        text_length: The number of token ids of a text.
        image_dim: The width of the image tower.
        text_dim: The width of the text tower.
        depth: The number of blocks of the image tower.
        text_depth: The number of blocks of the text tower; at most `depth`.
        num_heads: The number of heads of both; divides both widths.
        mlp_dim: The hidden width of the MLP of both.
        embed_dim: The width of the features.
        norm_eps: The epsilon of every norm.
        logit_scale_init: The start value of the logarithm of the scale.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = {"toy_towers": dict(normalize="clip")}
    objective: ClassVar[str] = "toy_pairs"
    heads: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ("image_features", "text_features")
    outputs: ClassVar[tuple[str, ...]] = ("logits_per_image",)

    image_size: tuple[int, int] = (16, 24)
    patch_size: tuple[int, int] = (8, 4)
    in_chans: int = 3
    vocabulary: int = 41
    text_length: int = 7
    image_dim: int = 24
    text_dim: int = 20
    depth: int = 2
    text_depth: int = 1
    num_heads: int = 4
    mlp_dim: int = 36
    embed_dim: int = 28
    norm_eps: float = 1e-5
    logit_scale_init: float = 2.6592
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return self.grid_size[0] * self.grid_size[1]

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Images and token ids."""
        images = Input("images", (*self.image_size, self.in_chans))
        return (images, Input("tokens", (self.text_length,), vocabulary=self.vocabulary))

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The blocks of both towers."""
        images = (f"visual.blocks.{i}" for i in range(self.depth))
        return (*images, *(f"text.blocks.{i}" for i in range(self.text_depth)))

    @property
    def summary(self) -> dict[str, str]:
        """Sizes of both towers."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "patch": "x".join(map(str, self.patch_size)),
            "text": f"{self.text_length} of {self.vocabulary}",
            "dims": f"{self.image_dim}, {self.text_dim}",
            "depths": f"{self.depth}, {self.text_depth}",
            "features": str(self.embed_dim),
        }

    def layer_of(self, name: str) -> int:
        """The last blocks of both towers are equally far from the end."""
        tower, *rest = name.split(".")
        if tower not in ("visual", "text"):
            return self.depth + 1
        if rest[0] == "blocks":
            return int(rest[1]) + 1 + (0 if tower == "visual" else self.depth - self.text_depth)
        return self.depth + 1 if rest[0] in ("norm", "proj") else 0

    def shortened(self, depth: int) -> ToyTowersConfig:
        """The first blocks of both towers, one at least."""
        depth = max(1, min(depth, self.depth))
        return replace(self, depth=depth, text_depth=min(depth, self.text_depth))

    def reduced(self, depth: int) -> ToyTowersConfig:
        """As few blocks, on a grid of 2 x 3 patches."""
        small = (2 * self.patch_size[0], 3 * self.patch_size[1])
        plain = Preprocessing(mean=(0.5,), std=(0.5,))
        return replace(self.shortened(depth), image_size=small, logit_scale_init=1.0, preprocessing=plain)

    def narrowed(self) -> ToyTowersConfig:
        """One small width."""
        return replace(self, image_dim=12, text_dim=8, num_heads=2, mlp_dim=20, embed_dim=10)

    def activations(self, *, backward: bool) -> int:
        """Those of one block of each tower, or of all."""
        blocks = self.depth if backward else 1
        wide = max(self.num_patches, self.text_length) * (12 * max(self.image_dim, self.text_dim) + 4 * self.mlp_dim)
        return 2 * blocks * (wide + 3 * self.num_heads * max(self.num_patches, self.text_length) ** 2)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, as_pair(name, getattr(self, name)))
        check_fields(self)
        sizes = ("in_chans", "vocabulary", "text_length", "image_dim", "text_dim", "depth", "text_depth", "num_heads")
        for name in (*sizes, "mlp_dim", "embed_dim"):
            expect(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        expect(self.text_depth <= self.depth, "text_depth", self.text_depth, f"at most depth {self.depth}")
        fits = all(side % patch == 0 for side, patch in zip(self.image_size, self.patch_size, strict=True))
        expect(fits, "image_size", self.image_size, f"multiples of patch_size {self.patch_size}")
        for name in ("image_dim", "text_dim"):
            divides = getattr(self, name) % self.num_heads == 0
            expect(divides, "num_heads", self.num_heads, f"a divisor of {name} {getattr(self, name)}")
        expect(self.norm_eps > 0, "norm_eps", self.norm_eps, "a value above 0")
