"""The config of Pyramid Vision Transformers and its named models.

Source: Wang et al. 2021, arXiv:2106.13797 (PVT v2). The models are those of timm's module `pvt_v2`.
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

_WIDE = (64, 128, 320, 512)


def _model(depths: tuple[int, ...], dims: tuple[int, ...] = _WIDE, ratios: tuple[int, ...] = (8, 8, 4, 4)) -> Any:
    """The fields of a named model."""
    hidden = tuple(dim * ratio for dim, ratio in zip(dims, ratios, strict=True))
    return dict(normalize="imagenet", num_classes=1000, depths=depths, embed_dims=dims, mlp_dims=hidden)


_REGISTERED = {
    "pvt_v2_b0": _model((2, 2, 2, 2), (32, 64, 160, 256)),
    "pvt_v2_b1": _model((2, 2, 2, 2)),
    "pvt_v2_b2": _model((3, 4, 6, 3)),
    "pvt_v2_b3": _model((3, 4, 18, 3)),
    "pvt_v2_b4": _model((3, 8, 27, 3)),
    "pvt_v2_b5": _model((3, 6, 40, 3), ratios=(4, 4, 4, 4)),
    "pvt_v2_b2_li": _model((3, 4, 6, 3)) | dict(linear=True),
}


@dataclass(frozen=True, kw_only=True)
class PvtConfig(StagedConfig):
    """Stages of attention to a smaller map, each of which begins with a convolution that halves the map.

    Attributes:
        image_size: Height and width in pixels of the images that the model is meant for; it takes every size.
        in_chans: The number of channels of the images.
        num_classes: The width of the head; 0 leaves it out and the model returns pooled features.
        embed_dims: The width of each stage.
        depths: The blocks of each stage.
        num_heads: The heads of each stage; they divide its width.
        mlp_dims: The hidden width of the MLPs of each stage.
        sr_ratios: By how much the sides of the map that keys and values come from are smaller, in each stage; 1 for
            the map itself.
        linear: Whether keys and values come from a map of 7 x 7 means instead, and MLPs have a ReLU more.
        qkv_bias: Whether the projections to query, key and value have a bias.
        act: The activation of the MLP.
        norm_eps: The epsilon of the norms of blocks and stages.
        embed_norm_eps: The epsilon of the norms behind convolutions: of patches, and of what keys and values come from.
            The authors and timm have 1e-5 here and 1e-6 in `norm_eps`; transformers has one epsilon for all.
        drop_rate: Dropout behind projections.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block; that of the others rises to it.
        preprocessing: How images become inputs.
    """

    registered: ClassVar[Mapping[str, Mapping[str, Any]]] = _REGISTERED
    numerics: ClassVar[tuple[str, ...]] = ("act", "norm_eps", "embed_norm_eps")
    embeddings: ClassVar[tuple[str, ...]] = ("patch_embed",)

    image_size: tuple[int, int] = (224, 224)
    in_chans: int = 3
    num_classes: int = 1000
    embed_dims: tuple[int, ...] = _WIDE
    depths: tuple[int, ...] = (3, 4, 6, 3)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_dims: tuple[int, ...] = (512, 1024, 1280, 2048)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    linear: bool = False
    qkv_bias: bool = True
    act: Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"] = "gelu"
    norm_eps: float = 1e-6
    embed_norm_eps: float = 1e-5
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The maps of the stages."""
        return tuple(f"stages.{stage}" for stage in range(self.num_stages))

    @property
    def summary(self) -> dict[str, str]:
        """Sizes."""
        return {
            "image": "x".join(map(str, self.image_size)),
            "dim": "-".join(map(str, self.embed_dims)),
            "depth": "-".join(map(str, self.depths)),
            "heads": "-".join(map(str, self.num_heads)),
            "mlp": "-".join(map(str, self.mlp_dims)),
            "classes": str(self.num_classes),
        }

    def layer_of(self, name: str) -> int:
        """0 in the first embedding, then the blocks; a stage's embedding belongs to its first, its norm to its last."""
        first, *rest = name.split(".")
        if first != "stages":
            return 0 if first == "patch_embed" else self.depth + 1
        stage = int(rest[0])
        block = int(rest[2]) if rest[1] == "blocks" else 0 if rest[1] == "downsample" else self.depths[stage] - 1
        return sum(self.depths[:stage]) + block + 1

    def initial(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
        """Convolutions are drawn from a normal law of (2 / fan_out)^1/2, without a bias, as in the authors' code."""
        import numpy as np

        if len(shape) == 4:
            fan_out = math.prod(shape[2:]) * (1 if ".dwconv." in name else shape[0])
            return math.sqrt(2 / fan_out) * rng.standard_normal(shape)
        module = name.removesuffix(".bias")
        is_conv = module.endswith((".sr", ".dwconv", "patch_embed.proj", "downsample.proj"))
        return np.zeros(shape) if is_conv and module != name else None

    def reduced(self, depth: int) -> PvtConfig:
        """As few blocks, on maps with odd sides that nothing divides."""
        plain = Preprocessing(mean=(0.5,), std=(0.5,))
        side = 4 * max(self.sr_ratios[:1])
        return replace(self.shortened(depth), image_size=(side + 3, side + 9), preprocessing=plain)

    def narrowed(self) -> PvtConfig:
        """One small width, and two stages."""
        small = dict(embed_dims=(12, 15), mlp_dims=(20, 28), depths=(2, 2), num_heads=(2, 3), sr_ratios=(2, 1))
        return replace(self, **small, num_classes=7 if self.num_classes else 0)

    def activations(self, *, backward: bool) -> int:
        """Those of every block; of the largest one without a backward pass."""
        blocks = []
        for stage, (height, width) in enumerate(self.grid_sizes):
            tokens, ratio = height * width, self.sr_ratios[stage]
            keys = 49 if self.linear else (height // ratio) * (width // ratio)
            block = tokens * (10 * self.embed_dims[stage] + 5 * self.mlp_dims[stage])
            blocks += [block + 3 * self.num_heads[stage] * tokens * keys] * self.depths[stage]
        return sum(blocks) if backward else max(blocks)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where the fields don't make a model."""
        object.__setattr__(self, "image_size", as_pair("image_size", self.image_size))
        check_fields(self)
        expect(self.in_chans >= 1, "in_chans", self.in_chans, "a positive integer")
        expect(self.num_classes >= 0, "num_classes", self.num_classes, "0 or a positive integer")
        expect(min(self.image_size) >= 1, "image_size", self.image_size, "positive integers")
        self.check_stages("embed_dims", "num_heads", "mlp_dims", "sr_ratios")
        for dim, heads in zip(self.embed_dims, self.num_heads, strict=True):
            expect(dim % heads == 0, "num_heads", self.num_heads, f"divisors of the widths {self.embed_dims}")
        if not self.linear:
            for grid, ratio in zip(self.grid_sizes, self.sr_ratios, strict=True):
                expect(
                    min(grid) >= ratio, "sr_ratios", self.sr_ratios, f"at most the sides of the maps {self.grid_sizes}"
                )
        for name in ("norm_eps", "embed_norm_eps"):
            expect(getattr(self, name) > 0, name, getattr(self, name), "a value above 0")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "a value in [0, 1)")
